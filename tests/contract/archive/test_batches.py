"""Several studies in one batch: how their files become durable together, and what happens if that fails."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from storage_ledger.archive.batch import ALONE_FOR_S, SLOW_S, TOGETHER_FROM, SyncChoice
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.work_queue import Stage
from storage_ledger.pipeline.place.outcomes import Archived, Retry
from storage_ledger.pipeline.worker_threads import WorkerThreads
from storage_ledger.system import files
from tests.contract.archive.test_archive import tree
from tests.contract.archive.test_two_processes import under_strace
from tests.support.pipeline import Pipeline

STUDIES = [f"S{number}" for number in range(5)]

FIVE = """
archive, uploads = FilesystemArchive(root), Uploads(root.parent / "uploads")
def placed(studies):
    with archive.batch(len(studies)) as batch:
        folders = [batch.study(name, known={}, is_ours=lambda _: True) for name in studies]
        with uploads.open("a.dcm") as upload:
            copies = [folder.copy(upload, position=1) for folder in folders]
        lost = batch.sync_copies()
        if lost is None:
            for folder, copied in zip(folders, copies):
                folder.link(copied, "a.dcm")
                folder.write_metadata(b"{}")
        failed, whole = batch.sync_names()
        return lost and lost.code, sorted(failed), whole
"""


@pytest.fixture
def root(tmp_path):
    for name in ("archive", "uploads"):
        (tmp_path / name).mkdir()
    (tmp_path / "uploads" / "a.dcm").write_bytes(b"x")
    return tmp_path / "archive"


CALLS = "fsync,syncfs,linkat,renameat,openat"


def test_many_studies_are_synced_twice_and_few_one_by_one(root, tmp_path):
    run = under_strace(FIVE + "print(placed(['A', 'B', 'C', 'D']))\nprint(placed(['E', 'F']))", tmp_path, root, CALLS)
    assert run.output == ["(None, [], True)", "(None, [], False)"]
    calls = [call.split("(")[0] for call in run.calls if not call.startswith("openat")]
    assert calls[: 2 + 4 * 2 + 2] == ["syncfs", "fsync", *["linkat", "renameat"] * 4, "syncfs", "fsync"]
    assert calls.count("syncfs") == 2
    assert [call for call in run.calls if call.startswith("fsync") and str(root / "E>") in call]


def test_no_descriptor_of_the_root_outlives_a_batch(root, tmp_path):
    """It would be that of another volume once that is mounted, and an fsync of it would say nothing of a new folder."""
    there = "print(sorted(os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')).count(str(root)))"
    run = under_strace(FIVE + f"print(placed(['A', 'B', 'C']))\n{there}", tmp_path, root, CALLS)
    assert run.output == ["(None, [], True)", "0"]


def test_the_root_that_is_synced_was_opened_before_anything_was_written(root, tmp_path):
    run = under_strace(FIVE + "placed(['A', 'B', 'C'])", tmp_path, root, CALLS)
    opened = next(n for n, call in enumerate(run.calls) if call.startswith("openat") and call.endswith(f"<{root}>"))
    descriptor = run.calls[opened].rpartition("= ")[2].partition("<")[0]
    assert all(call.startswith(f"syncfs({descriptor}<") for call in run.calls if call.startswith("syncfs"))
    assert opened < next(n for n, call in enumerate(run.calls) if "O_CREAT" in call)


@pytest.mark.parametrize(
    ("when", "first", "left"),
    [("1", "('archive-io', ", "[]"), ("2", "(None, ['A', 'B', 'C'], True)", "['A', 'B', 'C']")],
    ids=["of the copies: also the new folders", "of the names"],
)
def test_after_a_failed_sync_all_is_stored_again_and_synced_one_by_one(root, tmp_path, when, first, left):
    program = FIVE + "print(placed(['A', 'B', 'C']))\nprint(sorted(os.listdir(root)))\nprint(placed(['A', 'B', 'C']))"
    run = under_strace(program, tmp_path, root, CALLS, inject=f"syncfs:error=EIO:when={when}")
    assert run.output[0].startswith(first)
    assert run.output[1:] == [left, "(None, [], False)"]
    renamed = [call for call in run.calls if call.startswith("renameat") and call.count('"a.dcm"') == 1]
    assert len(renamed) == (0 if left == "[]" else 3), "a new copy takes the name of one that may be lost"
    assert sum(call.startswith("syncfs") for call in run.calls) == 2
    expected = {f"{study}/{name}": data for study in "ABC" for name, data in (("a.dcm", b"x"), ("metadata.json", b"{}"))}
    assert tree(root) == expected


def test_a_file_system_that_an_error_made_read_only_is_noticed_though_syncfs_succeeds(root, tmp_path):
    run = under_strace(FIVE + "print(placed(['A', 'B', 'C']))", tmp_path, root, CALLS, inject="fsync:error=EROFS:when=2")
    assert run.output == ["(None, ['A', 'B', 'C'], True)"]


def test_a_name_of_a_known_file_whose_sync_failed_is_put_again(root, tmp_path):
    """The ledger has it, so it is not removed; what has the name may not be durable, whatever a later fsync says."""
    known = f"{{'a.dcm': {hashlib.sha256(b'x').hexdigest()!r}}}"
    program = FIVE.replace("known={}", f"known={known}") + "print(placed(['A', 'B', 'C']))\nprint(placed(['A', 'B', 'C']))"
    for study in "ABC":
        (root / study).mkdir()
    run = under_strace(program, tmp_path, root, CALLS, inject="syncfs:error=EIO:when=2")
    assert run.output == ["(None, ['A', 'B', 'C'], True)", "(None, [], False)"]
    again = [call for call in run.calls if call.startswith("renameat") and call.count('"a.dcm"') == 1]
    assert len(again) == 3


def test_on_a_file_system_that_may_not_sync_as_a_whole_each_file_is_synced(root, monkeypatch):
    monkeypatch.setattr(files, "SYNCED_AS_A_WHOLE", frozenset())
    descriptor = os.open(root, os.O_RDONLY)
    assert not SyncChoice().together(descriptor, 100)
    os.close(descriptor)


def test_after_a_slow_or_failed_sync_files_are_synced_one_by_one_for_a_while(root):
    now = [1000.0]
    choice = SyncChoice(lambda: now[0])
    descriptor = os.open(root, os.O_RDONLY)
    assert not choice.together(descriptor, TOGETHER_FROM - 1)
    for seconds, failed in [(SLOW_S + 1, False), (0.0, True)]:
        assert choice.together(descriptor, TOGETHER_FROM)
        choice.took(seconds, failed=failed)
        assert not choice.together(descriptor, TOGETHER_FROM)
        now[0] += ALONE_FOR_S
    choice.took(SLOW_S / 2, failed=False)
    assert choice.together(descriptor, TOGETHER_FROM)
    os.close(descriptor)


# -- as the step uses it


@pytest.fixture
def pipeline(tmp_path, ledgers):
    pipeline = Pipeline(tmp_path, ledgers)
    yield pipeline
    pipeline.ledger.close()


def described(pipeline, studies=STUDIES):
    for study in studies:
        pipeline.upload(f"{study}.dcm", study.encode())
        pipeline.say(study, f"{study}.dcm")
    return [work_item for group in pipeline.due(Stage.PLACE) for work_item in group]


def test_studies_of_one_batch_are_archived_like_single_ones(pipeline):
    outcomes = pipeline.placer.place_batch(described(pipeline))
    assert [(type(o), o.folder_synced) for o in outcomes] == [(Archived, True)] * 5
    pipeline.placing.record([outcomes], fresh=True)
    pipeline.finish()
    pipeline.check_metadata()
    assert pipeline.files() == {f"{study}/{study}.dcm": hashlib.sha256(study.encode()).hexdigest() for study in STUDIES}


def test_a_file_that_cannot_be_placed_fails_alone(pipeline):
    work_items = described(pipeline)
    (pipeline.uploads / "S1.dcm").unlink()
    (pipeline.archive / "S3").write_bytes(b"a file in place of a folder")
    outcomes = pipeline.placer.place_batch(work_items)
    assert [type(o).__name__ for o in outcomes] == ["Archived", "Retry", "Archived", "Quarantined", "Archived"]
    pipeline.placing.record([outcomes], fresh=True)
    assert pipeline.kinds().count(Kind.ARCHIVED) == 3


@pytest.mark.parametrize("failing", [1, 2])
def test_when_the_sync_fails_all_are_placed_again(pipeline, monkeypatch, failing):
    real, calls = files.sync_file_system, []

    def sync(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(files, "sync_file_system", sync)
    outcomes = pipeline.placer.place_batch(described(pipeline))
    assert [(type(o), o.error.code) for o in outcomes] == [(Retry, "archive-io")] * 5
    pipeline.placing.record([outcomes], fresh=True)
    assert Kind.ARCHIVED not in pipeline.kinds()
    pipeline.finish()
    pipeline.check_metadata()
    assert sorted(pipeline.files()) == [f"{study}/{study}.dcm" for study in STUDIES]


def test_a_batch_ends_after_many_bytes_and_hands_the_other_studies_back(pipeline, monkeypatch):
    monkeypatch.setattr("storage_ledger.pipeline.place.placer.MOST_BYTES", 3)
    work_items = described(pipeline)
    threads = WorkerThreads("test", pipeline.placer.place_batch, pipeline.placing._wakeup)
    threads.hire(1)
    threads.hand_out(work_items, begun=0, singly=False)
    [task] = threads._running
    [result] = task.future.result(30)
    threads.dismiss()
    assert result.work_items == work_items[:2], "two bytes each: the first two are more than three"
    assert [type(o) for o in result.outcome] == [Archived, Archived]
    assert task.handed_back == 3


def test_a_batch_of_one_study_ends_after_many_bytes_too(pipeline, monkeypatch):
    monkeypatch.setattr("storage_ledger.pipeline.place.placer.MOST_BYTES", 3)
    for name in "abcd":
        pipeline.upload(f"{name}.dcm", b"xy")
        pipeline.say("S1", f"{name}.dcm")
    pipeline.say("S1", "a.dcm")  # a redelivery: the outcome of the first answers it
    [work_items] = pipeline.due(Stage.PLACE)
    threads = WorkerThreads("test", pipeline.placer.place_batch, pipeline.placing._wakeup)
    threads.hire(1)
    threads.hand_out(work_items, begun=0, singly=False)
    [task] = threads._running
    [result] = task.future.result(30)
    threads.dismiss()
    assert (result.work_items, task.handed_back) == (work_items[:2], 3)
    pipeline.placing.record([result.outcome], fresh=True)
    assert pipeline.kinds().count(Kind.ARCHIVED) == 2
    pipeline.finish()
    pipeline.check_metadata()
    assert len(pipeline.files()) == 4


def test_copies_that_were_not_linked_leave_nothing(root):
    archive, uploads = FilesystemArchive(root), Uploads(root.parent / "uploads")
    with archive.batch(3) as batch, uploads.open("a.dcm") as upload:
        for study in STUDIES[:3]:
            batch.study(study, known={}, is_ours=lambda _: True).copy(upload, position=1)
        assert len(tree(root)) == 3
    assert tree(root) == {}
