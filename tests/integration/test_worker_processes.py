"""`serve` with worker processes: their share of the work, their end, and what they do not do when they hang or the service dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind
from storage_ledger.domain.share import belongs
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, WORKERS=2)
    yield stack
    for pid in stack.workers():  # stopped ones would wait for ever
        os.kill(pid, signal.SIGCONT)
    stack.close()


def share_of(study_id: str) -> int:
    return int(belongs(study_id.encode(), 1, 2))


def publish(stack: Stack, prefix: str, count: int) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        study_id = f"{prefix}-{number:03d}"
        message, files[study_id] = upload(stack, study_id, seed=number)
        stack.publish(message)
    return files


def kinds(stack: Stack, kind: Kind) -> list:
    ledger = SqliteLedger(stack.ledger / "ledger.db")
    try:
        return [entry for entry in ledger.read(0, 100_000) if entry.kind == kind]
    finally:
        ledger.close()


def archived_once(stack: Stack, files: dict[str, bytes]) -> None:
    until(lambda: files.keys() <= {entry.study_id for entry in kinds(stack, Kind.DESCRIBED)}, 30, what="all to be recorded")
    until(stack.idle, 60, what="nothing to be pending")
    assert_archived(stack, files)
    assert Counter(entry.study_id for entry in kinds(stack, Kind.ARCHIVED)) == dict.fromkeys(files, 1)
    assert stack.check()["violations"] == []


def test_two_workers_share_the_studies_and_metrics_are_their_sum(stack, status_server):
    stack.start()
    assert len(stack.workers()) == 2
    files = publish(stack, "a", 40)
    archived_once(stack, files)
    assert {share_of(study_id) for study_id in files} == {0, 1}
    assert stack.metric('storage_ledger_files_archived_total{placement="copied"}') == 40
    assert stack.metric('storage_ledger_entries_total{kind="archived"}') == 40
    assert stack.metric('storage_ledger_entries_total{kind="described"}') == 40
    assert stack.metric("storage_ledger_archive_seconds_count") == 40
    assert all(status_server.status(study_id) == "archived" for study_id in files)
    assert stack.stop() == 0
    assert stack.workers() == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_each_worker_has_a_processor_of_its_own_and_no_image_library(stack):
    stack.start()
    files = publish(stack, "a", 10)
    archived_once(stack, files)
    used = [{tuple(os.sched_getaffinity(int(task))) for task in os.listdir(f"/proc/{pid}/task")} for pid in stack.workers()]
    first, second = ({processors for processors in each if len(processors) == 1} for each in used)
    assert (len(first), len(second), first & second) == (1, 1, set())
    for pid in [stack._pid(), *stack.workers()]:
        assert Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")[2].split()[:2] == ["0", "0"]  # no core dump
    for pid in stack.workers():
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "pysqlite3" in maps or "_sqlite3" in maps
        assert "numpy" not in maps
        assert "_imaging" not in maps
    assert stack.stop() == 0


def test_a_worker_that_is_killed_is_restarted_and_its_studies_are_archived_once(stack):
    stack.start()
    files = publish(stack, "a", 30)
    before = stack.workers()
    os.kill(before[0], signal.SIGKILL)
    files |= publish(stack, "b", 30)
    until(lambda: len(found := stack.workers()) == 2 and found[0] != before[0], 30, what="a new worker")
    archived_once(stack, files)
    assert stack.workers()[1] == before[1]
    assert "worker-0" in stack.log.read_text()
    assert stack.metric('storage_ledger_thread_failures_total{thread="worker-0"}') == 1
    assert stack.stop() == 0


def test_a_stopped_worker_delays_only_its_share_and_is_reported(stack, status_server):
    stack.start()
    [first, _] = stack.workers()
    os.kill(first, signal.SIGSTOP)
    files = publish(stack, "a", 60)
    its, others = ([study_id for study_id in files if share_of(study_id) == number] for number in (0, 1))
    until(lambda: all(status_server.status(study_id) == "archived" for study_id in others), 30)
    assert not any(status_server.status(study_id) == "archived" for study_id in its)
    code, body = until(lambda: found if "worker 0 (process" in (found := stack.get("/readyz"))[1] else None, 40)
    assert (code, "has not answered" in body) == (503, True)
    os.kill(first, signal.SIGCONT)
    archived_once(stack, files)
    until(lambda: stack.get("/readyz")[0] == 200, 30)
    assert stack.stop() == 0


def test_workers_end_with_a_killed_service_and_the_next_one_goes_on(stack):
    stack.start()
    files = publish(stack, "a", 50)
    before = stack.workers()
    until(lambda: len(kinds(stack, Kind.DESCRIBED)) == len(files), 30)
    stack.kill()
    stack.start()
    archived_once(stack, files)
    assert not set(before) & set(stack.workers())
    assert stack.stop() == 0


def test_no_service_starts_while_a_worker_of_a_dead_one_lives(stack):
    stack.start()
    [first, _] = stack.workers()
    os.kill(first, signal.SIGSTOP)
    stack.kill(workers_end=False)
    done = stack.command("serve")
    assert done.returncode == 11, done.stderr
    assert "a worker process of `storage-ledger serve`" in done.stderr
    os.kill(first, signal.SIGCONT)
    until(lambda: not stack.workers(), 30, what="the worker to notice that the service has ended")
    stack.start()
    assert stack.stop() == 0


def test_an_outage_that_both_workers_meet_is_one_entry(stack, status_server):
    stack.start()
    status_server.close()
    files = publish(stack, "a", 40)
    until(lambda: any(entry.study_id is None for entry in kinds(stack, Kind.FAILED)), 60, what="the outage")
    until(lambda: len(kinds(stack, Kind.ARCHIVED)) == len(files), 60)
    until(lambda: "status-service-away" in stack.get("/readyz")[1], 30)
    assert sum(entry.study_id is None for entry in kinds(stack, Kind.FAILED)) == 1
    assert stack.stop() == 0
