from __future__ import annotations

from storage_ledger.cli.progress import Step, left, text


def test_a_count_is_shown_with_rate_and_time_left_after_the_first_second():
    step = Step("Checking", "entries", 2_000, 10_000)
    assert (text(step, 0.5), left(step, 0.5)) == ("2,000 of 10,000 entries", "")
    assert (text(step, 10.0), left(step, 10.0)) == ("2,000 of 10,000 entries, 200/s", ", 0:00:40 left")


def test_where_bytes_count_they_say_how_long_it_takes():
    step = Step("Files", "files", 900, 1_000, 1_000_000, 100_000_000)
    assert text(step, 10.0) == "900 of 1,000 files, 90/s, 1.0 MB of 100.0 MB, 100.0 kB/s"
    assert left(step, 10.0) == ", 0:16:30 left"


def test_bytes_without_a_total_are_shown_and_the_time_left_follows_from_the_count():
    step = Step("Reading the archive", "studies", 10, 40, 5_000_000)
    assert text(step, 10.0) + left(step, 10.0) == "10 of 40 studies, 1/s, 5.0 MB, 500.0 kB/s, 0:00:30 left"


def test_progress_in_bytes_alone_is_shown_as_text():
    assert text(Step("Copying", "bytes", 1_500_000, 3_000_000), 0.0) == "1.5 MB of 3.0 MB"


def test_without_a_total_no_time_left_is_shown():
    step = Step("Searching uploads", "files", 50, None)
    assert text(step, 10.0) + left(step, 10.0) == "50 files, 5/s"


def test_more_than_was_expected_leaves_no_time():
    assert left(Step("Adopting", "folders", 12, 10), 60.0) == ""
