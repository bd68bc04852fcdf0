"""From a delivered message to the file in the archive, step by step in one thread."""

import base64
import errno
import hashlib
import json
import os
import threading
from concurrent.futures import Future
from contextlib import suppress

import pytest

from storage_ledger.archive.study_folder import FilesystemStudyFolder
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.domain.payloads import UnreadablePayload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.pipeline.worker_threads import WorkerTask, WorkResult
from tests.support.making import Ledgers, fill, small_volume
from tests.support.pipeline import Pipeline, tree
from tests.support.waiting import until


@pytest.fixture
def pipeline(tmp_path, ledgers: Ledgers):
    made = Pipeline(tmp_path, ledgers)
    yield made
    made.ledger.close()


def replace_by(what, path, elsewhere):
    if what == "link":
        path.symlink_to(elsewhere)
    else:
        path.write_bytes(b"a file")


def entries(pipeline, kind):
    return [entry for entry in pipeline.ledger.read(0, 10_000) if entry.kind == kind]


def test_a_described_file_is_archived_and_its_upload_removed(pipeline):
    pipeline.upload("a.dcm", b"content")
    pipeline.say("S1", "/app/uploads/a.dcm", {"patient_info": {"patient_id": "P1"}})
    assert pipeline.kinds() == ["described"]
    pipeline.finish()
    assert pipeline.kinds() == ["described", "archived"]
    assert pipeline.files() == {"S1/a.dcm": hashlib.sha256(b"content").hexdigest()}
    assert tree(pipeline.uploads) == {}
    assert [work_item.stage for work_item in pipeline.ledger.pending_of("S1")] == [Stage.TELL]
    pipeline.check_metadata()
    [archived] = entries(pipeline, "archived")
    assert archived.data["metadata_sha256"] == tree(pipeline.archive)["S1/metadata.json"]


def test_a_message_is_acknowledged_once_it_is_in_the_ledger(pipeline):
    pipeline.say("S1", "a.dcm")
    assert len(pipeline.source.acknowledged) == 1


def test_every_message_becomes_an_entry_and_bad_ones_do_not_stop_good_ones(pipeline):
    good = json.dumps({"study_id": "S1", "file_path": "a.dcm"}).encode()
    pipeline.deliver(b"[", good, b"\xff", b'{"study_id":"S2","file_path":"/etc/passwd"}')
    found = pipeline.ledger.read(0, 10)
    assert [entry.kind for entry in found] == ["rejected", "described", "rejected", "rejected"]
    assert [entry.data.get("reason") for entry in found] == ["not-json", None, "not-utf8", "unsafe-path"]
    assert [entry.study_id for entry in found] == [None, "S1", None, None]
    assert found[3].data["study_id"] == "S2"
    assert [work_item.entry.position for work_item in pipeline.ledger.due([Stage.TELL], limit=9)] == [4]


def test_a_rejected_message_of_a_study_that_is_known_is_told_to_nobody(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.say("S1", "/etc/passwd")
    assert pipeline.ledger.due([Stage.TELL], limit=9) == []


def test_a_rejected_message_keeps_its_beginning_and_the_digest_of_all(pipeline):
    raw = b"\xff" * 10_000
    pipeline.deliver(raw)
    [entry] = entries(pipeline, "rejected")
    assert base64.b64decode(entry.data["raw"]) == raw[:4096]
    assert entry.data["raw_sha256"] == hashlib.sha256(raw).hexdigest()


def test_rejected_messages_beyond_the_hours_share_are_only_counted(pipeline):
    pipeline.deliver(*[b"["] * 7)
    pipeline.deliver(b"[")
    assert len(entries(pipeline, "rejected")) == 5
    assert pipeline.metrics.rejected_unlogged._value.get() == 3
    pipeline.clock.move(3600)
    pipeline.deliver(b"[")
    assert len(entries(pipeline, "rejected")) == 6


def test_what_could_not_be_recorded_does_not_use_up_the_hours_share(tmp_path, ledgers):
    with small_volume(tmp_path / "small", "3m") as folder:
        pipeline = Pipeline(folder, ledgers)
        fill(folder / "ballast")
        refused = 0
        for number in range(400):
            try:
                pipeline.say("S1", f"{number}.dcm", {"large": "x" * 5000})
            except LedgerBusy:
                refused += 1
                with suppress(LedgerBusy):
                    pipeline.deliver(b"\xff" * 5000)
            if refused == 20:
                break
        before = len(entries(pipeline, "rejected"))
        (folder / "ballast").unlink()
        pipeline.deliver(b"\xff")
        after = len(entries(pipeline, "rejected"))
        pipeline.ledger.close()
    assert (refused, before) == (20, 0)
    assert after == 1


def test_that_the_ledger_could_be_written_again_is_told_when_all_that_waited_is_recorded(pipeline):
    wakeups = Wakeups()
    recovered = wakeups.of(Sleeper.RECONCILE)
    stop, ended = threading.Event(), threading.Event()
    intake = Intake(
        pipeline.ledger, pipeline.source, UploadPaths("/app/uploads"), metrics=pipeline.metrics, clock=pipeline.clock,
        rejected_per_hour=5, wakeups=wakeups,
    )  # fmt: skip
    thread = threading.Thread(target=intake.run, args=(stop, ended))
    with pipeline.ledger._writer.connection() as connection:  # the connection that is used again: it does not wait for the other one
        connection.execute("PRAGMA busy_timeout = 1")
    other = SqliteLedger(pipeline.ledger.path)
    with other.write():
        thread.start()
        for number in range(1200):  # more than one group
            intake.deliver(Delivery(json.dumps({"study_id": "S1", "file_path": f"{number}.dcm"}).encode(), "pubsub"))
        until(lambda: intake.trouble == "ledger-busy")
        assert not recovered.is_set()
    assert recovered.wait(20)
    assert len(pipeline.ledger.read(0, 9999)) == 1200
    stop.set()
    ended.set()
    thread.join(30)
    other.close()


def test_a_message_that_is_not_plain_keeps_its_bytes_and_is_archived(pipeline):
    pipeline.upload("a.dcm", b"x")
    raw = b'{"study_id":"S1","file_path":"a.dcm","metadata":{"n":1e400,"n":NaN,"s":"\\ud800"}}'
    pipeline.deliver(raw)
    pipeline.finish()
    [described] = entries(pipeline, "described")
    assert base64.b64decode(described.data["raw"]) == raw
    assert list(pipeline.files()) == ["S1/a.dcm"]
    pipeline.check_metadata()


def test_a_redelivery_of_what_is_archived_adds_an_entry_of_each_kind_and_no_file(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    before = tree(pipeline.archive)
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "archived"] * 2
    assert entries(pipeline, "archived")[1].data["placement"] == "already-there"
    assert tree(pipeline.archive) == before


def test_a_redelivery_of_what_is_pending_adds_nothing_but_itself(pipeline):
    pipeline.upload("a.dcm", b"x")
    for _ in range(3):
        pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described"] * 3 + ["archived"]
    assert pipeline.ledger.due([Stage.PLACE], limit=9) == []


def test_a_redelivery_with_the_good_bytes_mends_a_damaged_file(pipeline):
    pipeline.upload("a.dcm", b"good")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    (pipeline.archive / "S1" / "a.dcm").unlink()
    (pipeline.archive / "S1" / "a.dcm").write_bytes(b"bad!")
    pipeline.upload("a.dcm", b"good")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert (pipeline.archive / "S1" / "a.dcm").read_bytes() == b"good"
    aside = entries(pipeline, "archived")[1].data["set_aside"]
    assert (pipeline.archive / aside).read_bytes() == b"bad!"


def test_a_damaged_file_of_which_uploads_has_no_copy_waits_for_a_person(pipeline):
    pipeline.upload("a.dcm", b"good")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    (pipeline.archive / "S1" / "a.dcm").unlink()
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert entries(pipeline, "quarantined")[0].data["code"] == "archive-copy-missing"


def test_a_file_that_comes_within_the_grace_is_archived_and_the_wait_says_nothing(pipeline):
    pipeline.say("S1", "a.dcm")
    for _ in range(4):
        pipeline.place()
        pipeline.clock.move(20)
    pipeline.upload("a.dcm", b"x")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "archived"]


def test_a_file_that_never_comes_is_quarantined_after_the_grace_and_leaves_no_folder(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "quarantined"]
    assert entries(pipeline, "quarantined")[0].data["code"] == "upload-missing"
    waited_s = (pipeline.clock.now.timestamp()) - pipeline.clock_watch.steady_since().timestamp()
    assert waited_s == pytest.approx(300, abs=1)
    assert list(pipeline.archive.iterdir()) == []


def test_the_grace_begins_anew_with_a_start_since_a_volume_may_be_mounted_after_us(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.clock.move(10_000)
    pipeline.restart()
    pipeline.place()
    assert pipeline.kinds() == ["described"]
    pipeline.finish()
    assert pipeline.kinds() == ["described", "quarantined"]


def test_a_clock_that_was_set_back_before_a_start_does_not_make_the_grace_longer(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.clock.move(-86_400)
    with pipeline.ledger.write() as tx:
        tx.make_due(beyond_s=600)
    pipeline.restart()
    pipeline.clock.move(301)
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]


def test_a_clock_that_is_set_forward_gives_up_no_file_before_its_time(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.set_clock(3600)
    pipeline.place()
    assert pipeline.kinds() == ["described"]
    pipeline.clock.move(301)
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]


def test_what_was_put_off_does_not_wait_as_long_as_the_clock_is_set_back(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.upload("a.dcm", b"x")
    pipeline.set_clock(-3600)
    pipeline.clock_watch.look()
    pipeline.place()
    assert pipeline.kinds() == ["described", "archived"]


def test_a_clock_that_is_set_back_does_not_make_the_grace_longer(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.set_clock(-3600)
    pipeline.clock_watch.look()
    pipeline.clock.move(301)
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]


def test_a_volume_that_comes_off_leaves_an_empty_folder_and_quarantines_nothing(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.upload("b.dcm", b"x")
    pipeline.say("S2", "b.dcm")
    volume = pipeline.uploads.rename(pipeline.uploads.parent / "volume")
    pipeline.uploads.mkdir()
    pipeline.clock.move(1000)
    pipeline.place()
    pipeline.remove()
    failed = entries(pipeline, "failed")
    assert [(entry.study_id, entry.data["code"]) for entry in failed] == [(None, "uploads-missing")] * len(failed) != []
    assert (volume / "a.dcm").exists()
    pipeline.uploads.rmdir()
    volume.rename(pipeline.uploads)
    pipeline.finish()
    assert [entry.study_id for entry in entries(pipeline, "archived")] == ["S1", "S2"]
    assert entries(pipeline, "quarantined") == []
    assert list(pipeline.uploads.iterdir()) == []


def test_another_uploads_folder_is_taken_as_soon_as_something_lies_in_it(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    pipeline.uploads.rename(pipeline.uploads.parent / "old")
    pipeline.say("S2", "gone.dcm")
    pipeline.upload("c.dcm", b"y")
    pipeline.finish()
    assert [(entry.study_id, entry.data["code"]) for entry in entries(pipeline, "quarantined")] == [("S2", "upload-missing")]


def test_a_redelivery_gets_a_quarantined_file_archived(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "quarantined", "described", "archived"]


def test_a_redelivery_that_comes_while_the_first_is_being_quarantined_is_not_lost(pipeline):
    pipeline.say("S1", "a.dcm")
    pipeline.clock.move(301)
    [work_items] = pipeline.due(Stage.PLACE)
    judged = pipeline.placer.place_batch(work_items)  # still no file …
    pipeline.upload("a.dcm", b"x")  # … but now
    pipeline.say("S1", "a.dcm")
    pipeline.placing.record([judged], fresh=True)
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/a.dcm"]


def test_the_last_word_on_a_pending_file_is_the_one_in_its_metadata(pipeline):
    """Messages one, other, one again: had each been placed before the next arrived, `one` would count."""
    pipeline.upload("a.dcm", b"x")
    for number in (1, 2, 1):
        pipeline.say("S1", "a.dcm", {"n": number})
    pipeline.finish()
    assert pipeline.metadata("S1")["n"] == 1


def test_an_older_word_that_had_to_wait_does_not_take_over_the_newer_one(pipeline):
    pipeline.say("S1", "a.dcm", {"n": 1})
    pipeline.place()  # no file yet: postponed
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm", {"n": 2})
    pipeline.finish()
    assert pipeline.metadata("S1")["n"] == 2
    pipeline.check_metadata()


def test_a_link_is_quarantined_at_once(pipeline, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (pipeline.uploads / "a.dcm").symlink_to(tmp_path / "secret")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]
    assert tree(pipeline.archive) == {}
    assert (pipeline.uploads / "a.dcm").is_symlink()


@pytest.mark.parametrize("upload_is_there", [True, False])
def test_a_study_folder_that_is_a_link_is_quarantined(pipeline, tmp_path, upload_is_there):
    (tmp_path / "elsewhere").mkdir()
    (pipeline.archive / "S1").symlink_to(tmp_path / "elsewhere")
    if upload_is_there:
        pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.clock.move(301)
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("becomes", ["link", "file"])
@pytest.mark.parametrize("upload_is_there", [True, False])
def test_a_redelivery_whose_archived_study_has_become_a_link_or_a_file_waits_for_a_person(pipeline, tmp_path, upload_is_there, becomes):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    (pipeline.archive / "S1").rename(tmp_path / "elsewhere")
    replace_by(becomes, pipeline.archive / "S1", tmp_path / "elsewhere")
    if upload_is_there:
        pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert [entry.data["code"] for entry in entries(pipeline, "quarantined")] == ["archive-name-taken"]
    assert entries(pipeline, "failed") == []
    assert (pipeline.uploads / "a.dcm").exists() == upload_is_there


@pytest.mark.parametrize("becomes", ["link", "file"])
def test_an_upload_whose_archived_study_has_become_a_link_or_a_file_stays_and_waits_for_a_person(pipeline, tmp_path, becomes):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.restart()
    (pipeline.archive / "S1").rename(tmp_path / "elsewhere")
    replace_by(becomes, pipeline.archive / "S1", tmp_path / "elsewhere")
    pipeline.finish()
    assert [entry.data["code"] for entry in entries(pipeline, "quarantined")] == ["archive-name-taken"]
    assert (pipeline.uploads / "a.dcm").read_bytes() == b"x"


def test_an_upload_that_was_replaced_after_it_was_archived_is_archived_too(pipeline):
    pipeline.upload("a.dcm", b"one")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.upload("a.dcm", b"another")
    pipeline.finish()
    assert sorted(pipeline.files().values()) == sorted(hashlib.sha256(c).hexdigest() for c in (b"one", b"another"))
    assert tree(pipeline.uploads) == {}
    pipeline.check_metadata()


def test_an_upload_is_not_removed_while_the_archive_has_no_intact_copy(pipeline):
    pipeline.upload("a.dcm", b"good")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.restart()
    (pipeline.archive / "S1" / "a.dcm").unlink()
    pipeline.remove()
    assert (pipeline.uploads / "a.dcm").read_bytes() == b"good"
    pipeline.finish()
    assert (pipeline.archive / "S1" / "a.dcm").read_bytes() == b"good"
    assert tree(pipeline.uploads) == {}


def test_an_archive_that_is_away_is_one_outage_and_quarantines_nothing(pipeline):
    for name in ("a", "b"):
        pipeline.upload(f"{name}.dcm", b"x")
        pipeline.say(name, f"{name}.dcm")
    away = pipeline.archive.with_name("away")
    pipeline.archive.rename(away)
    for _ in range(3):
        pipeline.place()
    assert pipeline.kinds() == ["described", "described", "failed"]
    assert entries(pipeline, "failed")[0].study_id is None
    away.rename(pipeline.archive)
    pipeline.finish()
    assert pipeline.kinds()[3:] == ["archived", "archived", "recovered"]


def test_what_was_placed_is_not_recorded_while_its_folders_name_cannot_be_made_durable(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    judged = pipeline.placer.place_batch(work_items)
    away = pipeline.archive.with_name("away")
    pipeline.archive.rename(away)
    pipeline.placing.record([judged], fresh=True)
    assert pipeline.kinds() == ["described", "failed"]
    away.rename(pipeline.archive)
    pipeline.finish()
    assert pipeline.kinds() == ["described", "failed", "archived", "recovered"]


def test_what_another_process_ended_meanwhile_is_not_recorded_again(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    judged = [pipeline.placer.place_batch(work_items) for _ in range(2)]
    for outcomes in judged:
        pipeline.placing.record([outcomes], fresh=True)
    assert pipeline.kinds() == ["described", "archived"]


def test_uploads_that_are_away_are_one_outage_and_quarantine_nothing(pipeline):
    pipeline.upload("a.dcm", b"x")
    pipeline.say("S1", "a.dcm")
    away = pipeline.uploads.with_name("away")
    pipeline.uploads.rename(away)
    pipeline.clock.move(1000)
    pipeline.place()
    assert pipeline.kinds() == ["described", "failed"]
    away.rename(pipeline.uploads)
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/a.dcm"]


def test_files_of_one_study_placed_together_share_one_metadata(pipeline):
    for name in ("a", "b", "c"):
        pipeline.upload(f"{name}.dcm", name.encode())
        pipeline.say("S1", f"{name}.dcm", {"n": name})
    pipeline.finish()
    digests = {entry.data["metadata_sha256"] for entry in entries(pipeline, "archived")}
    assert len(digests) == 1
    assert [file["name"] for file in pipeline.metadata("S1")["files"]] == ["a.dcm", "b.dcm", "c.dcm"]
    pipeline.check_metadata()


def test_the_same_name_from_two_folders_keeps_both(pipeline):
    pipeline.upload("x/a.dcm", b"one")
    pipeline.upload("y/a.dcm", b"two")
    pipeline.say("S1", "x/a.dcm")
    pipeline.say("S1", "y/a.dcm")
    pipeline.finish()
    assert len(pipeline.files()) == 2
    pipeline.check_metadata()


def test_a_file_that_somebody_still_writes_waits_and_is_archived_once_whole(pipeline):
    pipeline.upload("a.dcm", b"half")
    pipeline.say("S1", "a.dcm")
    path = pipeline.uploads / "a.dcm"
    with path.open("ab") as writer:
        pipeline.place()
        pipeline.remove()
        assert (path.read_bytes(), pipeline.kinds()) == (b"half", ["described"])
        writer.write(b" and the rest")
    pipeline.finish()
    assert not path.exists()
    assert (pipeline.archive / "S1" / "a.dcm").read_bytes() == b"half and the rest"
    assert pipeline.kinds() == ["described", "archived"]


def test_one_archived_file_that_cannot_be_read_costs_its_neighbours_nothing(pipeline, monkeypatch):
    for number in range(5):
        pipeline.upload(f"{number}.dcm", b"%d" % number)
        pipeline.say("S1", f"{number}.dcm")
    really = FilesystemStudyFolder.open

    def failing(folder, name):
        if name == "2.dcm":
            raise Retryable("archive-io", "EIO")
        return really(folder, name)

    monkeypatch.setattr(FilesystemStudyFolder, "open", failing)
    pipeline.place()
    assert sorted(entry.data["file"]["name"] for entry in entries(pipeline, "archived")) == ["0.dcm", "1.dcm", "3.dcm", "4.dcm"]
    assert [entry.data["code"] for entry in entries(pipeline, "failed")] == ["archive-io"]
    monkeypatch.undo()
    pipeline.finish()
    assert len(pipeline.files()) == 5
    pipeline.check_metadata()


def test_a_removal_that_no_archived_entry_explains_is_dropped(pipeline):
    """A row of a damaged work queue: nothing was archived, so there is nothing to remove or record."""
    pipeline.upload("a.dcm", b"a")
    pipeline.say("S1", "a.dcm")
    with pipeline.ledger.write() as tx:
        tx.add_work_item(1, Stage.REMOVE)
    pipeline.remove()
    assert [item.stage for item in pipeline.ledger.pending_of("S1")] == [Stage.PLACE]
    assert (pipeline.kinds(), (pipeline.uploads / "a.dcm").exists()) == (["described"], True)


def test_a_new_folder_that_was_lost_is_not_recorded_by_the_second_try_of_its_group(pipeline, monkeypatch):
    """The archive's fsync fails, so the folder of S is abandoned; then the outcome of T cannot be recorded, and each is retried alone."""
    for study in "ST":
        pipeline.upload(f"{study}.dcm", study.encode())
        pipeline.say(study, f"{study}.dcm")
    tasks = []
    for work_items in pipeline.due(Stage.PLACE):
        done: Future = Future()
        done.set_result([WorkResult(work_items, outcome=pipeline.placer.place_batch(work_items))])
        tasks.append(WorkerTask(work_items, 0, False, done))
    root, fsync, append = pipeline.archive.stat().st_ino, os.fsync, pipeline.recorder._append
    failures = [OSError(errno.EIO, "I/O error")]

    def failing_once(descriptor):
        if os.fstat(descriptor).st_ino == root and failures:
            raise failures.pop()
        return fsync(descriptor)

    def breaking(tx, outcome):
        if outcome.work_item.entry.study_id == "T":
            raise TypeError
        return append(tx, outcome)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing_once)
        patched.setattr(pipeline.recorder, "_append", breaking)
        pipeline.placing._take(tasks)
    assert failures == []
    assert "archived" not in pipeline.kinds()
    pipeline.finish()
    assert set(pipeline.files()) == {"S/S.dcm", "T/T.dcm"}


def test_a_folder_that_is_renamed_while_files_are_placed_in_it_brings_nothing_that_is_archived_elsewhere(pipeline, monkeypatch):
    for name in "ab":
        pipeline.upload(f"{name}.dcm", name.encode())
        pipeline.say("S", f"{name}.dcm")
    link = FilesystemStudyFolder.link

    def then_renamed(self, copied, name):
        placed = link(self, copied, name)
        if name == "a.dcm":
            (pipeline.archive / "S").rename(pipeline.archive / "S.moved")
        return placed

    with monkeypatch.context() as patched:
        patched.setattr(FilesystemStudyFolder, "link", then_renamed)
        pipeline.place()
    assert "archived" not in pipeline.kinds()
    pipeline.finish()
    assert {name for name in pipeline.files() if name.startswith("S/")} == {"S/a.dcm", "S/b.dcm"}


def test_nothing_is_told_of_an_entry_that_names_no_study(tmp_path, ledgers):
    pipeline = Pipeline(tmp_path, ledgers, client=StatusClient("http://127.0.0.1:9"))
    with pipeline.ledger.write() as tx:
        payload = {"reason": "not-json", "detail": "", "source": "pubsub", "bytes": 1, "raw_sha256": "", "raw": ""}
        entry = tx.append(NewEntry(Kind.REJECTED, payload))
        tx.add_work_item(entry.position, Stage.TELL)
    with pytest.raises(UnreadablePayload):
        pipeline.notifier.tell(pipeline.due(Stage.TELL)[0])
    pipeline.ledger.close()
