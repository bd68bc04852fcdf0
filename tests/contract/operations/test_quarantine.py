"""Decisions on quarantined uploads and their effects, step by step, with a real Status Service."""

import threading

import pytest
import typer.main

from storage_ledger.cli.main import _UsageError, app
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.study import State, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.index.follower import Index
from storage_ledger.index.queries import archived_from, studies_with_upload
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.quarantine import MAX_BY, MAX_REASON, STUDIES_A_COMMIT, Decision, DecisionTarget, decide, in_quarantine
from storage_ledger.operations.report.quarantine import quarantined
from storage_ledger.operations.report.status import current_status
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from tests.support.making import described
from tests.support.pipeline import Pipeline, tree

RETRY = Decision(Kind.RELEASED, "Jane Doe", "the file is back")
WHO = ["--by", "Jane Doe", "--reason", "the file is back"]
DISCARD = Decision(Kind.DISCARDED, "Jane Doe", "it will never come")


@pytest.fixture
def pipeline(tmp_path, ledgers, status_server):
    client = StatusClient(status_server.url)
    made = Pipeline(tmp_path, ledgers, grace_s=0, client=client)
    yield made
    made.ledger.close()
    client.close()


def lose(pipeline, study_id="S1", path="a.dcm", metadata=None):
    """Describe a missing file, and let it be quarantined and its status sent."""
    pipeline.say(study_id, path, metadata)
    pipeline.finish()


def word(pipeline, said, *about):
    return list(decide(pipeline.ledger, said, about or [DecisionTarget("S1")]))


def positions(answers):
    return [answer.position for answer in answers]


def told(status_server):
    kept = status_server.statuses["S1"]
    return kept["status"], kept["details"]


def last(pipeline):
    return pipeline.ledger.last()


# -- retry


def test_a_retry_archives_the_file_and_the_status_follows(pipeline, status_server):
    lose(pipeline)
    assert status_server.status("S1") == "failed"
    pipeline.upload("a.dcm", b"x")
    [answer] = word(pipeline, RETRY)
    assert (answer.upload_path, answer.found, answer.code, answer.position) == ("a.dcm", State.QUARANTINED, "upload-missing", 4)
    released = last(pipeline)
    assert (released.kind, released.study_id, released.cause) == ("released", "S1", 2)
    assert released.data == {
        "by": "Jane Doe",
        "code": "upload-missing",
        "described": 1,
        "reason": "the file is back",
        "upload_path": "a.dcm",
    }
    assert [
        (work_item.entry.position, work_item.stage, work_item.attempts) for work_item in pipeline.ledger.due([Stage.PLACE], limit=9)
    ] == [(1, "place", 0)]
    pipeline.finish()
    assert pipeline.kinds() == ["described", "quarantined", "status-sent", "released", "archived", "status-sent"]
    assert list(pipeline.files()) == ["S1/a.dcm"]
    assert tree(pipeline.uploads) == {}
    assert status_server.status("S1") == "archived"
    pipeline.check_metadata()


def test_a_retry_of_a_file_that_is_still_missing_is_quarantined_again_immediately(pipeline, status_server):
    lose(pipeline)
    word(pipeline, RETRY)
    pipeline.place()
    assert pipeline.kinds()[-2:] == ["released", "quarantined"]
    assert last(pipeline).cause == 1
    pipeline.upload("a.dcm", b"x")
    assert word(pipeline, RETRY)[0].position is not None
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/a.dcm"]
    assert status_server.status("S1") == "archived"


def test_a_retry_uses_the_last_message_about_the_upload_whichever_was_processed_last(pipeline):
    pipeline.say("S1", "a.dcm", {"n": 1})
    with pipeline.ledger.write() as tx:
        tx.postpone(1, Stage.PLACE, due_in_s=60, attempts=1)
    pipeline.say("S1", "a.dcm", {"n": 2})
    pipeline.place()
    pipeline.clock.move(61)
    pipeline.place()
    assert [entry.cause for entry in pipeline.ledger.read(2, 9)] == [2, 1]
    pipeline.upload("a.dcm", b"x")
    word(pipeline, RETRY)
    pipeline.finish()
    assert pipeline.metadata("S1")["n"] == 2
    pipeline.check_metadata()


def test_one_retry_is_enough_for_a_message_that_came_twice(pipeline):
    for _ in range(2):
        pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "described", "quarantined", "status-sent"]
    pipeline.upload("a.dcm", b"x")
    assert positions(word(pipeline, RETRY)) == [5]
    pipeline.finish()
    assert pipeline.kinds()[4:] == ["released", "archived", "status-sent"]


@pytest.mark.parametrize("path", [None, "a.dcm"])
@pytest.mark.parametrize("said", [RETRY, DISCARD])
def test_the_second_of_two_decisions_sees_the_current_state_and_appends_nothing(pipeline, path, said):
    lose(pipeline)
    for first, found in ((RETRY, State.PENDING), (DISCARD, State.DISCARDED)):
        assert word(pipeline, first)[0].position is not None
        before = last(pipeline)
        [answer] = word(pipeline, said, DecisionTarget("S1", path))
        assert (answer.upload_path, answer.found, answer.position) == (path, found, None)
        assert last(pipeline) == before
        pipeline.finish()  # the retry ends in quarantine again


def test_a_decision_about_an_upload_that_was_retried_meanwhile_is_not_appended(pipeline):
    lose(pipeline)
    [chosen] = in_quarantine(pipeline.ledger, ["S1"])
    word(pipeline, RETRY)
    pipeline.finish()
    about = DecisionTarget("S1", "a.dcm", chosen.position)
    assert positions(word(pipeline, DISCARD, about)) == [None]
    [chosen] = in_quarantine(pipeline.ledger, ["S1"])
    assert positions(word(pipeline, DISCARD, DecisionTarget("S1", "a.dcm", chosen.position))) != [None]


def test_an_upload_unknown_to_the_ledger_is_reported(pipeline):
    lose(pipeline)
    answers = word(pipeline, RETRY, DecisionTarget("S1", "b.dcm"), DecisionTarget("S2"))
    assert [(answer.study_id, answer.upload_path, answer.found, answer.position) for answer in answers] == [
        ("S1", "b.dcm", None, None),
        ("S2", None, None, None),
    ]


def test_an_upload_that_a_redelivery_is_already_retrying_needs_no_decision(pipeline):
    """A redelivery arrives between the decision to quarantine and its entry: the upload is quarantined, and being retried."""
    pipeline.say("S1", "a.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    judged = pipeline.placer.place_batch(work_items)
    pipeline.say("S1", "a.dcm")
    pipeline.placing.record([judged], fresh=True)
    assert pipeline.kinds() == ["described", "described", "quarantined"]
    for said in (RETRY, DISCARD):
        [answer] = word(pipeline, said, DecisionTarget("S1"))
        assert (answer.found, answer.position) == (State.PENDING, None)
    pipeline.upload("a.dcm", b"x")
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/a.dcm"]


def test_a_decision_on_a_study_covers_each_of_its_quarantined_files_and_no_others(pipeline):
    for name in ("a", "b", "c"):
        pipeline.say("S1", f"{name}.dcm")
    pipeline.upload("b.dcm", b"x")
    pipeline.finish()
    assert [answer.upload_path for answer in word(pipeline, RETRY, DecisionTarget("S1", "c.dcm"))] == ["c.dcm"]
    pipeline.finish()
    assert [answer.upload_path for answer in word(pipeline, DISCARD)] == ["a.dcm", "c.dcm"]


def test_many_decisions_take_several_commits(pipeline):
    count = 2 * STUDIES_A_COMMIT + 1
    with pipeline.ledger.write() as tx:
        for number in range(count):
            entry = tx.append(NewEntry(Kind.DESCRIBED, described(f"{number}.dcm"), f"S{number}"))
            payload = {"code": "upload-missing", "detail": "", "upload_path": f"{number}.dcm", "by": "projector"}
            tx.append(NewEntry(Kind.QUARANTINED, payload, f"S{number}", entry.position), work_item=False)
    about = [
        DecisionTarget(each.study_id, each.upload_path, each.position)
        for each in in_quarantine(pipeline.ledger, [f"S{n}" for n in range(count)])
    ]
    answers = decide(pipeline.ledger, RETRY, about)
    next(answers)
    assert last(pipeline).position == 2 * count + STUDIES_A_COMMIT, "what is answered is durable, and no more is begun"
    assert len(list(answers)) == count - 1
    assert pipeline.ledger.queue()[0].rows == count


def test_many_simultaneous_retries_release_an_upload_once(pipeline):
    lose(pipeline)
    ledgers = [SqliteLedger(pipeline.ledger.path, clock=pipeline.clock) for _ in range(6)]
    start = threading.Barrier(len(ledgers))
    answers = []

    def person(ledger, said):
        start.wait()
        answers.extend(decide(ledger, said, [DecisionTarget("S1")]))

    threads = [threading.Thread(target=person, args=(ledger, (RETRY, DISCARD)[n % 2])) for n, ledger in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    assert len(answers) == len(ledgers)
    assert len([answer for answer in answers if answer.position]) == 1
    assert len(pipeline.kinds()) == 4


def test_a_retry_while_another_study_is_being_placed_changes_nothing_of_that(pipeline):
    lose(pipeline)
    pipeline.upload("a.dcm", b"x")
    pipeline.upload("b.dcm", b"y")
    pipeline.say("S2", "b.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    judged = pipeline.placer.place_batch(work_items)
    word(pipeline, RETRY)
    pipeline.placing.record([judged], fresh=True)
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/a.dcm", "S2/b.dcm"]


# -- discard


def test_nothing_waits_for_a_discarded_file_and_its_upload_stays(pipeline, status_server, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x")
    (pipeline.uploads / "a.dcm").symlink_to(tmp_path / "elsewhere")
    lose(pipeline)
    assert positions(word(pipeline, DISCARD)) == [4]
    discarded = last(pipeline)
    assert (discarded.kind, discarded.cause) == ("discarded", 2)
    assert discarded.data == {"by": "Jane Doe", "code": "upload-is-link", "reason": "it will never come", "upload_path": "a.dcm"}
    assert Study.of("S1", pipeline.ledger.study("S1")).state is State.DISCARDED
    pipeline.finish()
    assert pipeline.kinds()[3:] == ["discarded", "status-sent"]
    assert told(status_server) == ("failed", {"error": "upload-is-link"})
    assert pipeline.ledger.pending_of("S1") == []
    assert (pipeline.uploads / "a.dcm").is_symlink()
    assert list(in_quarantine(pipeline.ledger, ["S1"])) == []


def test_a_redelivery_brings_a_discarded_file_back(pipeline, status_server):
    lose(pipeline)
    word(pipeline, DISCARD)
    pipeline.finish()
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == [
        "described",
        "quarantined",
        "status-sent",
        "discarded",
        "status-sent",
        "described",
        "archived",
        "status-sent",
    ]
    assert status_server.status("S1") == "archived"
    pipeline.check_metadata()


# -- statuses sent


def test_with_the_last_quarantined_file_discarded_a_study_with_archived_ones_is_archived(pipeline, status_server):
    pipeline.upload("a.dcm", b"x")
    for name in ("a", "b", "c"):
        pipeline.say("S1", f"{name}.dcm")
    pipeline.finish()
    heard = [status_server.status("S1")]
    for name in ("b", "c"):
        word(pipeline, DISCARD, DecisionTarget("S1", f"{name}.dcm"))
        pipeline.finish()
        heard.append(status_server.status("S1"))
    assert heard == ["failed", "failed", "archived"]


def test_no_archived_status_is_sent_for_a_lost_file_that_was_discarded(pipeline, status_server):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    (pipeline.archive / "S1" / "a.dcm").unlink()
    lose(pipeline)
    word(pipeline, DISCARD)
    pipeline.finish()
    assert told(status_server) == ("failed", {"error": "archive-copy-missing"})
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert status_server.status("S1") == "archived"


@pytest.mark.parametrize("again", ["retry", "redelivery"])
def test_no_archived_status_is_sent_while_a_file_is_only_being_retried(pipeline, status_server, again):
    """The Status Service was away at the quarantine, so that status is still to be sent when the retry begins."""
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.say("S1", "a.dcm") if again == "redelivery" else word(pipeline, RETRY)
    pipeline.tell()
    assert told(status_server) == ("failed", {"error": "upload-missing"})
    pipeline.upload("a.dcm", b"x")
    pipeline.finish()
    assert status_server.posted("S1") == ["failed", "archived"]


def test_archiving_another_file_does_not_replace_the_outcome_of_a_retried_file(pipeline, status_server):
    lose(pipeline)
    word(pipeline, RETRY)
    pipeline.upload("b.dcm", b"y")
    pipeline.say("S1", "b.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    pipeline.placing.record(
        [pipeline.placer.place_batch([work_item for work_item in work_items if work_item.entry.position != 1])], fresh=True
    )
    pipeline.tell()
    assert status_server.posted("S1") == ["failed", "failed"]
    pipeline.upload("a.dcm", b"x")
    pipeline.finish()
    assert status_server.posted("S1") == ["failed", "failed", "archived"]


# -- the texts


@pytest.mark.parametrize(
    "text",
    ["", " ", "\t", "two\nlines", "bell\a", "\x1b[2J", "right to left \u202e", "nul\0", "lone \ud800", "\u2028", "\x85"],
)
def test_texts_that_would_command_a_terminal_or_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match="--by"):
        Decision(Kind.RELEASED, text, "reason")
    with pytest.raises(ValueError, match="--reason"):
        Decision(Kind.DISCARDED, "somebody", text)


def test_texts_have_a_limit_and_may_be_in_any_script(pipeline):
    with pytest.raises(ValueError, match="101 characters; the limit is 100"):
        Decision(Kind.RELEASED, "x" * (MAX_BY + 1), "reason")
    with pytest.raises(ValueError, match="1001 characters; the limit is 1000"):
        Decision(Kind.RELEASED, "x", "x" * (MAX_REASON + 1))
    lose(pipeline)
    said = Decision(Kind.RELEASED, "Ж" * MAX_BY, "ö😀'\";DROP TABLE entries; --[bold]" + "x" * 900)
    assert positions(word(pipeline, said)) == [4]
    assert last(pipeline).data["reason"] == said.reason


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["retry", "s"], "--by"),
        (["discard", "s", "--by", "x"], "--reason"),
        (["retry", "s", "--by", "", "--reason", "x"], "--by is empty"),
        (["discard", "s", "--by", "x", "--reason", "two\nlines"], "line breaks"),
        (["discard", "s", "--by", "x" * 101, "--reason", "x"], "101 characters"),
        (["retry", *WHO], "--all"),
        (["retry", "s", "--all", *WHO], "--all"),
        (["retry", "--all", "--upload", "a.dcm", *WHO], "--upload"),
        (["retry", "s", "--code", "upload-missing", *WHO], "--code"),
        (["discard", *WHO], "STUDY_ID"),
        (["retry", "../s", *WHO], "not a valid study_id"),
        (["retry", "\udcff", *WHO], "UTF-8"),
        (["retry", "s", "--upload", "\udcff", *WHO], "UTF-8"),
        (["retry", "s", "--by", "\udcff", "--reason", "x"], "UTF-8"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, why):
    with pytest.raises(_UsageError) as refused:
        typer.main.get_command(app).main(["quarantine", *arguments], standalone_mode=False)
    assert refused.value.exit_code == 2
    assert why in refused.value.format_message()


# -- the index


def test_the_index_knows_which_studies_to_look_at_and_never_more_than_it_has_seen(pipeline, tmp_path):
    lose(pipeline, "S1", "a.dcm")
    lose(pipeline, "S2", "b.dcm")
    path = tmp_path / "index.db"
    assert studies_with_upload(path, pipeline.ledger, "quarantined") is None
    index = Index(path, pipeline.ledger)
    index.ensure()
    seen = last(pipeline).position
    lose(pipeline, "S3", "c.dcm")
    word(pipeline, DISCARD, DecisionTarget("S2"))
    assert studies_with_upload(path, pipeline.ledger, "quarantined") == (seen, ["S1", "S2"])
    assert pipeline.ledger.studies_with_kind("quarantined", after=seen) == ["S3"]
    index.follow()
    assert studies_with_upload(path, pipeline.ledger, "quarantined") == (last(pipeline).position, ["S1", "S3"])
    assert studies_with_upload(path, pipeline.ledger, "discarded") == (last(pipeline).position, ["S2"])
    pipeline.upload("a.dcm", b"x")
    word(pipeline, RETRY)
    pipeline.finish()
    index.follow()
    assert archived_from(path, pipeline.ledger, "a.dcm") == ["S1"]
    index.close()


def test_an_index_of_another_ledger_or_none_at_all_is_not_asked(pipeline, ledgers, tmp_path):
    lose(pipeline)
    other = ledgers.open(tmp_path / "other")
    index = Index(tmp_path / "index.db", other)
    with other.write() as tx:
        tx.append(NewEntry(Kind.RECOVERED, {}))
    index.ensure()
    index.close()
    other.close()
    assert studies_with_upload(tmp_path / "index.db", pipeline.ledger, "quarantined") is None
    (tmp_path / "garbage.db").write_bytes(b"garbage " * 4096)
    assert studies_with_upload(tmp_path / "garbage.db", pipeline.ledger, "quarantined") is None
    assert archived_from(tmp_path / "garbage.db", pipeline.ledger, "a.dcm") == []


@pytest.mark.parametrize("kind", ["there", "behind", "missing", "garbage"])
def test_quarantined_files_are_listed_whatever_the_state_of_the_index(pipeline, kind):
    settings = Settings(uploads_path=pipeline.uploads, archive_path=pipeline.archive, ledger_path=pipeline.ledger.path.parent)
    lose(pipeline, "S1", "a.dcm")
    lose(pipeline, "S2", "b.dcm")
    if kind != "missing":
        index = Index(settings.index_file, pipeline.ledger)
        index.ensure()
        index.close()
    if kind == "garbage":
        settings.index_file.write_bytes(b"garbage " * 4096)
    if kind == "behind":
        lose(pipeline, "S3", "c.dcm")
        word(pipeline, DISCARD, DecisionTarget("S1"))
    expected = ["S2", "S3"] if kind == "behind" else ["S1", "S2"]
    assert [each.study_id for each in quarantined(pipeline.ledger, settings)] == expected
    assert current_status(pipeline.ledger, settings).quarantined == 2
