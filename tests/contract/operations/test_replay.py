"""Each part of replay, on real ledgers, archives and folders, with a real HTTP Status Service."""

import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.errors import LedgerUnusable, Permanent, Retryable
from storage_ledger.operations.replay.dry_run import DryRunRepair, DryRunStatuses
from storage_ledger.operations.replay.files import put_back
from storage_ledger.operations.replay.metadata import rewrite_metadata
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.replay.statuses import resend_statuses
from storage_ledger.operations.replay.studies import described_studies
from storage_ledger.operations.replay.time_budget import RetryBudget
from storage_ledger.operations.unresolved_problems import Problems
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.parallel import in_parallel
from storage_ledger.system.rate_limit import Pace
from tests.support.pipeline import Pipeline, tree
from tests.support.status_server import Fault
from tests.support.waiting import until


class Replaying(Pipeline):
    """A pipeline that has lost something, and the parts of a replay on it."""

    def files(self, *sources, chosen=None, archive=None, ledger=None, dry_run=False):
        """Put files back; return the counts, and the problems as (code, path)."""
        archive = archive or FilesystemArchive(self.archive)
        counts = ReplayCounts()
        problems = Problems()
        put_back(
            ledger or self.ledger,
            archive,
            DryRunRepair() if dry_run else archive,
            described_studies(self.ledger, chosen),
            sources,
            dry_run=dry_run,
            problems=problems,
            counts=counts,
            studies_count=1,
            begin=silent,
        )
        found = [(problem.code, problem.path) for problem in problems]
        assert len(problems) == len(found)
        problems.close()
        return counts, found

    def metadata_again(self, archive=None, *, dry_run=False):
        """Rewrite wrong metadata.json; return the counts, and the problems as (code, path)."""
        counts = ReplayCounts()
        problems = Problems()
        archive = archive or FilesystemArchive(self.archive)
        repair = DryRunRepair() if dry_run else archive
        rewrite_metadata(self.ledger, archive, repair, described_studies(self.ledger), problems=problems, counts=counts, show=show)
        found = [(problem.code, problem.path) for problem in problems]
        problems.close()
        return counts, found

    def statuses_again(self, client, dry_run=False, budget=None, chosen=None):
        """Re-send lost statuses; return the counts, and the problems as (code, study_id)."""
        notifier = Notifier(
            self.ledger,
            client,
            archive_root=str(self.archive),
            metrics=Metrics(),
            clock=self.clock,
            confirm_s=10,
        )
        counts = ReplayCounts()
        problems = Problems()
        resend_statuses(
            self.ledger,
            notifier,
            described_studies(self.ledger, chosen),
            rejected=chosen is None,
            dry_run=dry_run,
            pace=Pace(0, burst_s=0),
            budget=budget or RetryBudget(),
            problems=problems,
            counts=counts,
            show=show,
        )
        found = [(problem.code, problem.study_id) for problem in problems]
        problems.close()
        return counts, found

    def restored(self):
        return [entry.data for entry in self.ledger.read(0, 10_000) if entry.kind == Kind.RESTORED]


def show(done, size=None):
    assert done >= 0
    assert size is None or size >= 0


@contextmanager
def silent(title, total, unit):
    assert title
    assert unit
    yield show


@pytest.fixture
def pipeline(tmp_path, ledgers):
    made = Replaying(tmp_path / "made", ledgers, grace_s=0)
    yield made
    made.ledger.close()


@pytest.fixture
def filled(pipeline):
    """Make four studies: two with equal bytes, one with two files."""
    for study_id, path, content in (
        ("A", "a.dcm", b"first"),
        ("B", "b.dcm", b"other"),
        ("C", "c.dcm", b"other"),
        ("D", "d.dcm", b"longer than these"),
        ("D", "more/d.dcm", b"beside it"),
    ):
        pipeline.upload(path, content)
        pipeline.say(study_id, path, {"patient_info": {"patient_id": study_id}})
    pipeline.finish()
    return pipeline


@pytest.fixture
def source(filled, tmp_path):
    """Make a copy of all files, under other names, in nested folders."""
    folder = tmp_path / "source" / "deep" / "down"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in filled.archive.rglob("*.dcm"))):
        shutil.copy(path, folder / f"{number}.bin")
    return tmp_path / "source"


def lose(pipeline, *paths):
    for path in paths:
        (pipeline.archive / path).unlink()


# -- files


def test_lost_files_are_found_by_checksum_under_any_name(filled, source):
    before, copies = tree(filled.archive), tree(source)
    lose(filled, "A/a.dcm", "B/b.dcm", "C/c.dcm")
    counts, found = filled.files(source)
    assert (counts.looked_at, counts.mended, counts.bytes, found) == (5, 3, 15, [])
    assert tree(filled.archive) == before
    assert tree(source) == copies
    first = filled.restored()[0]
    assert first["file"] == {"name": "a.dcm", "bytes": 5, "sha256": before["A/a.dcm"]}
    assert (first["found"], first["source"]) == ("missing", str(source / "deep" / "down" / "0.bin"))
    assert [entry.cause for entry in filled.ledger.study("A") if entry.kind == Kind.RESTORED] == [1]
    assert filled.files(source)[0].mended == 0


def test_a_file_that_no_source_has_is_listed_and_left_unchanged(filled, source):
    lose(filled, "A/a.dcm", "B/b.dcm")
    os.chmod(filled.archive / "D" / "d.dcm", 0o640)
    (filled.archive / "D" / "d.dcm").write_bytes(b"LONGER than these")
    before = tree(filled.archive)
    assert filled.files()[1] == [
        ("archive-copy-missing", "A/a.dcm"),
        ("archive-copy-missing", "B/b.dcm"),
        ("archive-copy-changed", "D/d.dcm"),
    ]
    assert tree(filled.archive) == before
    for file in (source / "deep" / "down").iterdir():
        if file.stat().st_size == 5:
            file.unlink()
    counts, found = filled.files(source)
    assert (counts.mended, counts.left, [path for _, path in found]) == (1, 2, ["A/a.dcm", "B/b.dcm"])


def test_only_the_requested_study_is_restored(filled, source):
    lose(filled, "A/a.dcm", "B/b.dcm")
    counts, found = filled.files(source, chosen="B")
    assert (counts.looked_at, counts.mended, found) == (1, 1, [])
    assert not (filled.archive / "A" / "a.dcm").exists()


def test_the_archive_itself_may_be_a_source(filled):
    before = tree(filled.archive)
    lose(filled, "B/b.dcm")
    (filled.archive / "A" / "a.dcm").rename(filled.archive / "moved away")
    assert filled.files(filled.archive)[1] == []
    assert tree(filled.archive) == {**before, "moved away": before["A/a.dcm"]}


def test_a_second_source_provides_files_that_the_first_lacks(filled, source, tmp_path):
    lose(filled, "A/a.dcm", "D/d.dcm")
    (tmp_path / "other").mkdir()
    (source / "deep" / "down" / "0.bin").rename(tmp_path / "other" / "x")
    assert filled.files(source, tmp_path / "other")[0].mended == 2


def test_after_a_copy_cannot_be_restored_the_next_copy_is_tried(filled, source, tmp_path):
    class Failing(FilesystemArchive):
        left = 1

        def put_back(self, *arguments, **more):
            self.left -= 1
            if self.left >= 0:
                raise Retryable("archive-io", "of this time only")
            return super().put_back(*arguments, **more)

    lose(filled, "A/a.dcm")
    shutil.copytree(source, tmp_path / "second")
    assert filled.files(source, archive=Failing(filled.archive))[1] == [("archive-copy-missing", "A/a.dcm")]
    assert filled.files(source, tmp_path / "second", archive=Failing(filled.archive))[0].mended == 1
    assert filled.restored()[0]["source"].startswith(str(tmp_path / "second"))


def test_files_in_a_folder_that_could_not_be_made_durable_are_not_recorded(filled, source):
    class Failing(FilesystemArchive):
        """Removes the folder, as if an fsync of the root had failed while another file was being placed."""

        def sync_new_folders(self, studies):
            assert studies
            lost = {"A"} & set(studies)
            for study_id in lost:
                shutil.rmtree(self.root / study_id)
            return lost

    before = tree(filled.archive)
    shutil.rmtree(filled.archive / "A")
    shutil.rmtree(filled.archive / "B")
    failing = Failing(filled.archive)
    counts, found = filled.files(source, archive=failing)
    assert (counts.mended, counts.left, found) == (1, 1, [("archive-copy-missing", "A/a.dcm")])
    assert [each["file"]["name"] for each in filled.restored()] == ["b.dcm"]
    counts, found = filled.metadata_again(failing)
    assert (counts.mended, counts.left, found) == (1, 1, [("archive-io", "A/metadata.json")])
    assert filled.files(source)[1] == filled.metadata_again()[1] == []
    assert tree(filled.archive) == before


def test_a_hostile_source_leads_nowhere_and_blocks_nothing(filled, source, tmp_path):
    lose(filled, "A/a.dcm")
    good = source / "deep" / "down" / "0.bin"
    (tmp_path / "elsewhere").mkdir()
    good.rename(tmp_path / "elsewhere" / "good")
    (source / "link").symlink_to(tmp_path / "elsewhere" / "good")
    (source / "linked folder").symlink_to(tmp_path / "elsewhere")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
        (source / "other bytes").write_bytes(b"FIRST")
        deep = source
        for _ in range(40):
            deep = deep / "x"
            deep.mkdir()
        counts, found = filled.files(source)
        assert (counts.mended, [code for code, _ in found]) == (0, ["archive-copy-missing", "folder-too-deep"])
        os.link(tmp_path / "elsewhere" / "good", os.fsencode(source) + b"/\xff\n\x1b[2J")
        assert filled.files(source)[0].mended == 1
    assert filled.restored()[-1]["source"].endswith("/\\xff\n\x1b[2J")


def test_a_missing_source_is_reported(filled, tmp_path):
    lose(filled, "A/a.dcm")
    with pytest.raises(Retryable) as raised:
        filled.files(tmp_path / "nowhere")
    assert raised.value.code == "source-missing"
    assert filled.files()[1] == [("archive-copy-missing", "A/a.dcm")]


def test_an_empty_source_is_reported_because_a_mistyped_mount_is_empty(filled, source, tmp_path):
    lose(filled, "A/a.dcm")
    (tmp_path / "nothing").mkdir()
    assert filled.files(tmp_path / "nothing")[1] == [("archive-copy-missing", "A/a.dcm"), ("source-empty", str(tmp_path / "nothing"))]
    assert filled.files(tmp_path / "nothing", source)[1] == [], "with another one that has it, it does not matter"


def test_a_source_is_not_read_when_nothing_is_wanted(filled, tmp_path):
    assert filled.files(tmp_path / "nowhere")[0].left == 0


class Killed:
    """A ledger whose first write kills the process."""

    def __init__(self, ledger):
        self._ledger = ledger

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def write(self):
        raise KeyboardInterrupt


def test_files_restored_by_a_run_killed_before_recording_are_recorded_once(filled, source):
    lose(filled, "A/a.dcm", "B/b.dcm")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            filled.files(source, ledger=Killed(filled.ledger))
    assert filled.restored() == []
    assert (filled.archive / "A" / "a.dcm").read_bytes() == b"first"
    assert (filled.files(source)[0].mended, filled.files(source)[0].mended) == (2, 0)
    assert sorted((each["file"]["name"], each["found"], each["source"] is not None) for each in filled.restored()) == [
        ("a.dcm", "unrecorded", True),
        ("b.dcm", "unrecorded", True),
    ]
    assert not list(filled.archive.rglob(".restore-*"))


def test_a_restored_but_unrecorded_file_stays_marked(filled, source):
    class Refusing(FilesystemArchive):
        def put_back(self, *_, **__):
            raise AssertionError("it lies there already")

    lose(filled, "A/a.dcm")
    with pytest.raises(KeyboardInterrupt):
        filled.files(source, ledger=Killed(filled.ledger))
    with pytest.raises(KeyboardInterrupt):
        filled.files(source, ledger=Killed(filled.ledger), archive=Refusing(filled.archive))
    assert filled.files(source, archive=Refusing(filled.archive))[0].mended == 1
    assert len(filled.restored()) == 1


def test_a_restored_but_unrecorded_file_is_recorded_even_without_its_source(filled, source):
    lose(filled, "A/a.dcm")
    with pytest.raises(KeyboardInterrupt):
        filled.files(source, ledger=Killed(filled.ledger))
    counts, found = filled.files()
    assert (counts.mended, counts.left, found) == (1, 0, [])
    assert [each["source"] for each in filled.restored()] == [None]


def test_a_run_killed_after_recording_does_not_record_twice(filled, source):
    class KilledArchive(FilesystemArchive):
        def unmark(self, *_):
            raise KeyboardInterrupt

    lose(filled, "A/a.dcm")
    with pytest.raises(KeyboardInterrupt):
        filled.files(source, archive=KilledArchive(filled.archive))
    assert list(filled.archive.rglob(".restore-*"))
    assert filled.files(source)[0].mended == 0
    assert not list(filled.archive.rglob(".restore-*"))
    lose(filled, "A/a.dcm")
    assert filled.files(source)[0].mended == 1
    assert len(filled.restored()) == 2


def test_a_dry_run_says_the_same_and_changes_nothing(filled, source):
    lose(filled, "A/a.dcm", "B/b.dcm", "A/metadata.json")
    before = tree(filled.archive)
    last = filled.ledger.last()
    counts, found = filled.files(source, dry_run=True)
    assert (counts.mended, counts.bytes, found) == (2, 10, [])
    assert filled.metadata_again(dry_run=True)[0].mended == 1
    assert (tree(filled.archive), filled.ledger.last()) == (before, last)


def test_a_study_quarantined_for_a_lost_file_continues_once_released(filled, source):
    lose(filled, "A/a.dcm")
    filled.say("A", "a.dcm", {"patient_info": {"patient_id": "A"}})
    filled.finish()
    assert "archive-copy-missing" in [entry.data.get("code") for entry in filled.ledger.study("A")]
    filled.files(source)
    with filled.ledger.write() as tx:
        payload = {"upload_path": "a.dcm", "code": "archive-copy-missing", "by": "x", "reason": "y", "described": 1}
        tx.append(NewEntry(Kind.RELEASED, payload, "A", list(filled.ledger.study("A"))[-2].position))
    filled.finish()
    assert [entry.kind for entry in filled.ledger.study("A")][-2:] == ["released", "archived"]


# -- metadata.json


@pytest.mark.parametrize("damage", ["missing", "changed", "link", "no folder"])
def test_metadata_is_rewritten_with_the_same_bytes_and_nothing_else_is_changed(filled, damage):
    before = tree(filled.archive)
    made = {path: os.stat(filled.archive / path).st_ctime_ns for path in before}  # inode numbers are reused
    path = filled.archive / "D" / "metadata.json"
    if damage == "no folder":
        shutil.rmtree(path.parent)
    elif damage == "changed":
        path.write_bytes(path.read_bytes().replace(b"D", b"E"))
    else:
        path.unlink()
        if damage == "link":
            path.symlink_to(filled.archive / "A" / "metadata.json")
    counts, found = filled.metadata_again()
    assert (counts.looked_at, counts.mended, counts.bytes, found) == (4, 1, path.stat().st_size, [])
    now = tree(filled.archive)
    assert all(now[each] == before[each] for each in now)
    assert {each for each in now if os.stat(filled.archive / each).st_ctime_ns != made[each]} == {"D/metadata.json"}
    assert filled.metadata_again()[0].mended == 0


def test_metadata_that_cannot_be_written_is_listed_and_the_others_are(filled):
    (filled.archive / "B" / ".metadata.json.tmp").mkdir()
    (filled.archive / "B" / ".metadata.json.tmp" / "in it").touch()
    lose(filled, "A/metadata.json", "B/metadata.json", "D/metadata.json")
    counts, found = filled.metadata_again()
    assert (counts.mended, counts.left, found) == (2, 1, [("archive-error", "B/metadata.json")])
    assert json.loads((filled.archive / "A" / "metadata.json").read_text())["study_id"] == "A"


def test_studies_without_an_archived_file_have_no_metadata(pipeline):
    pipeline.say("gone", "gone.dcm")
    pipeline.finish()
    counts, found = pipeline.metadata_again()
    assert (counts.looked_at, counts.mended, found) == (0, 0, [])
    assert list(pipeline.archive.iterdir()) == []


# -- statuses


@pytest.fixture
def client(status_server):
    made = StatusClient(status_server.url)
    yield made
    made.close()


@pytest.fixture
def told(pipeline, client):
    """Make studies that are archived, quarantined, rejected twice and just described; all but the last sent and read back."""
    pipeline.client = client
    pipeline.restart()
    for study_id in ("A", "B"):
        pipeline.upload(f"{study_id}.dcm", study_id.encode())
        pipeline.say(study_id, f"{study_id}.dcm")
    pipeline.say("gone", "gone.dcm")
    pipeline.deliver(json.dumps({"study_id": "bad"}).encode())
    pipeline.finish()
    pipeline.deliver(json.dumps({"study_id": "bad", "file_path": "../x"}).encode())
    pipeline.finish()
    pipeline.say("new", "new.dcm")
    return pipeline


WORDS = {"A": "archived", "B": "archived", "gone": "failed", "bad": "failed"}


def words(status_server):
    return {study_id: value["status"] for study_id, value in status_server.statuses.items()}


def test_all_statuses_are_resent_to_an_emptied_status_service(told, client, status_server):
    before = {study_id: value["details"] for study_id, value in status_server.statuses.items()}
    assert words(status_server) == WORDS
    status_server.forget()
    last = told.ledger.last().position
    counts, found = told.statuses_again(client)
    assert (counts.mended, counts.left, found) == (4, 0, [])
    assert words(status_server) == WORDS
    assert {study_id: value["details"] for study_id, value in status_server.statuses.items()} == before
    assert before["bad"] == {"error": "unsafe-path"}, "the last that was told, not the first"
    added = told.ledger.read(last, 100)
    assert [(entry.kind, entry.data["reason"]) for entry in added] == [("status-sent", "overwritten")] * 4
    assert [told.ledger.get(entry.cause).kind for entry in added] == ["status-sent"] * 4
    assert told.statuses_again(client)[0].mended == 0


def test_existing_statuses_are_not_resent_and_pending_ones_are_left_to_the_service(told, client, status_server):
    status_server.late_described("A", {})
    status_server.statuses["B"] = {"status": "validated", "timestamp": "", "details": None}
    posts = len(status_server.posts)
    assert told.statuses_again(client)[0].mended == 1
    assert words(status_server) == {**WORDS, "B": "validated"}
    assert len(status_server.posts) == posts + 1
    assert "new" not in words(status_server)


def test_a_dry_run_reads_statuses_and_sends_none(told, client, status_server):
    status_server.forget()
    last = told.ledger.last()
    counts, _ = told.statuses_again(DryRunStatuses(client), dry_run=True)
    assert counts.mended >= 4
    assert (status_server.statuses, told.ledger.last()) == ({}, last)


class Waiting:
    """A clock that moves only by waiting, after `others`. `said`: the messages shown."""

    def __init__(self, others=lambda: None):
        self.now, self.waits, self.said, self.others = 0.0, [], [], others
        self.budget = RetryBudget(15, say=lambda error: self.said.append(error.code), clock=lambda: self.now, pause=self.pause)

    def pause(self, seconds):
        self.others()
        self.now += seconds
        self.waits.append(seconds)


def test_a_short_outage_of_the_status_service_is_waited_out(told, client, status_server):
    status_server.forget()
    status_server.next(*[Fault(code=503)] * 2)
    waiting = Waiting()
    assert told.statuses_again(client, budget=waiting.budget)[0].mended == 4
    assert (len(waiting.waits), waiting.said) == (2, ["status-service-away"])


def test_a_long_outage_of_the_status_service_ends_the_replay_for_all_studies(told, client, status_server):
    status_server.forget()
    status_server.always = lambda call: Fault(code=503) if call.study_id == "gone" else None
    last = told.ledger.last().position
    waiting = Waiting(others=lambda: until(lambda: WORDS.keys() - status_server.statuses.keys() == {"gone"}, 20))
    with pytest.raises(Retryable) as raised:
        told.statuses_again(client, budget=waiting.budget)
    assert raised.value.code == "status-service-away"
    assert {entry.study_id for entry in told.ledger.read(last, 100)} == {"A", "B", None}, "what was told by then is recorded"
    assert waiting.now >= 15

    status_server.always = Fault(code=503)
    calls = len(status_server.reads)
    with pytest.raises(Retryable):
        told.statuses_again(client, budget=waiting.budget)
    assert len(status_server.reads) == calls, "nobody is patient any more"


def test_a_refused_status_is_listed_and_the_others_are_sent(told, client, status_server):
    status_server.forget()
    status_server.always = lambda call: Fault(code=422) if (call.method, call.study_id) == ("POST", "A") else None
    counts, found = told.statuses_again(client)
    assert (counts.mended, counts.left, found) == (3, 1, [("status-refused", "A")])


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault(code=301), "status-refused"), (Fault(code=403), "status-refused"), (Fault(body=b"<html>"), "status-unreadable")],
)
def test_a_status_that_cannot_be_read_back_is_listed_and_not_assumed_to_exist(told, client, status_server, fault, code):
    status_server.always = lambda call: fault if call.study_id == "A" else None
    counts, found = told.statuses_again(client)
    assert (counts.looked_at, counts.mended, counts.left, found) == (3, 0, 1, [(code, "A")])


def test_a_study_without_a_sent_status_is_sent_its_last_outcome(filled, client, status_server):
    """Such as an adopted study: its work item `tell` was never made, or was dropped."""
    with filled.ledger.write() as tx:
        for work_item in filled.ledger.pending_of("A"):
            tx.drop(work_item.entry.position, work_item.stage)
    assert filled.statuses_again(client, chosen="A")[0].mended == 1
    assert words(status_server) == {"A": "archived"}


# -- how it continues


def test_all_threads_together_respect_the_rate_limit():
    now = [100.0]
    waits = []
    pace = Pace(4, burst_s=0.25, wait=waits.append, monotonic=lambda: now[0])
    for _ in range(3):
        pace.spend()
    assert waits == [0.25, 0.5]
    now[0] = 200.0
    pace.spend()
    assert len(waits) == 2


def test_one_failure_stops_no_other_item_and_a_shared_cause_stops_after_items_in_progress():
    def work(item):
        if isinstance(item, Exception):
            raise item
        return item * 2

    own, shared, broken = Permanent("archive-name-taken"), Retryable("archive-full", shared=True), ZeroDivisionError("of a patient")
    with ThreadPoolExecutor(2) as pool:
        outcomes, stop = in_parallel(pool, work, [1, own, broken, 2])
        assert stop is None
        assert [outcome for _, outcome in outcomes[::3]] == [2, 4]
        assert [outcome.code for _, outcome in outcomes[1:3]] == ["archive-name-taken", "internal-error"]
        assert "patient" not in str(outcomes[2][1])
        outcomes, stop = in_parallel(pool, work, [1, shared, 2])
        assert ([outcome for _, outcome in outcomes], stop) == ([2, 4], shared)
        assert in_parallel(pool, work, [LedgerUnusable("ledger-damaged")])[1].code == "ledger-damaged"
