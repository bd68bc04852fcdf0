from __future__ import annotations

from storage_ledger.cli.progress import Step, left, text


def test_a_count_has_its_rate_and_what_is_left_once_there_was_time_for_one():
    step = Step("Checking", "entries", 2_000, 10_000)
    assert (text(step, 0.5), left(step, 0.5)) == ("2,000 of 10,000 entries", "")
    assert (text(step, 10.0), left(step, 10.0)) == ("2,000 of 10,000 entries, 200/s", ", 0:00:40 left")


def test_where_bytes_count_they_say_how_long_it_takes():
    step = Step("Files", "files", 900, 1_000, 1_000_000, 100_000_000)
    assert text(step, 10.0) == "900 of 1,000 files, 90/s, 1.0 MB of 100.0 MB, 100.0 kB/s"
    assert left(step, 10.0) == ", 0:16:30 left"


def test_bytes_that_are_known_without_their_sum_are_told_and_the_count_says_how_long_it_takes():
    step = Step("Reading the archive", "studies", 10, 40, 5_000_000)
    assert text(step, 10.0) + left(step, 10.0) == "10 of 40 studies, 1/s, 5.0 MB, 500.0 kB/s, 0:00:30 left"


def test_a_work_of_bytes_alone_is_told_in_words():
    assert text(Step("Copying", "bytes", 1_500_000, 3_000_000), 0.0) == "1.5 MB of 3.0 MB"


def test_where_nobody_knows_how_many_there_will_be_nothing_is_said_of_the_end():
    step = Step("Searching uploads", "files", 50, None)
    assert text(step, 10.0) + left(step, 10.0) == "50 files, 5/s"


def test_more_than_was_expected_leaves_no_time():
    assert left(Step("Adopting", "folders", 12, 10), 60.0) == ""
