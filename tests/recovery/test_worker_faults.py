"""Worker processes that are killed, also at each of their system calls, or stopped and let go later, and a service that is killed
beside them: nothing lost or doubled.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.recovery import tracing
from tests.recovery.invariants import Checker
from tests.support.figures import note
from tests.support.stack import Stack
from tests.support.waiting import until

FAULTS = int(os.environ.get("STORAGE_LEDGER_WORKER_FAULTS", "4"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "23"))
STUDIES = 30
MORE = 10  # if none is met
KINDS = ("kill a worker", "stop a worker", "kill the service", "stop a worker and kill the service")


@pytest.mark.timeout(7200)
def test_workers_that_are_killed_or_stopped_lose_nothing_and_double_nothing(tmp_path, valkey, status_server, warm):
    rng = random.Random(SEED)
    began = time.monotonic()
    stack = Stack(tmp_path, valkey, status_server.url, warm=warm, WORKERS=2)
    files: dict[str, bytes] = {}
    figures = {"points": 0, "of": FAULTS, "studies": 0, "seconds": 0.0, "seed": SEED, "violations": 0}
    try:
        stack.start()
        for number in range(FAULTS):
            what = KINDS[number % len(KINDS)]
            mine = {}
            for i in range(STUDIES):
                study_id = f"s{number:03d}-{i:02d}"
                message, mine[study_id] = upload(stack, study_id, seed=number * 100 + i)
                stack.publish(message)
            until(lambda mine=mine: described(stack, mine), 30, what="all to be recorded")
            time.sleep(rng.uniform(0, 0.15))  # into the work
            fault(stack, what, rng)
            files |= mine
            until(stack.idle, 90, what=f"all to be done after: {what}, seed {SEED}")
            found = Checker(stack.uploads, stack.archive, stack.ledger, True)
            violations = found.run()["violations"]
            archived = Counter(e["study_id"] for e in found.entries if e["kind"] == "archived")
            figures |= {"points": number + 1, "studies": len(files), "violations": figures["violations"] + len(violations)}
            note("worker-faults", **{**figures, "seconds": round(time.monotonic() - began, 1)})
            assert violations == [], what
            assert archived == dict.fromkeys(files, 1), what
            assert all(status_server.status(study_id) == "archived" for study_id in files), what
        assert_archived(stack, files)
        assert stack.stop() == 0
    finally:
        for pid in stack.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        stack.close()


AT_ONCE = 6
KILLED = FAULTS if FAULTS > 4 else 2


@pytest.mark.timeout(7200)
def test_a_worker_may_be_killed_at_any_of_its_system_calls(tmp_path, valkey, status_server, warm):
    """The service restarts it. strace counts the calls of each thread, so which thread is hit, and when, is up to chance."""
    tracing.needs_strace()
    rng = random.Random(SEED)
    began = time.monotonic()
    stack = Stack(tmp_path, valkey, status_server.url, warm=warm, WORKERS=1)
    files: dict[str, bytes] = {}
    done = met = 0
    try:
        stack.start()
        _, trace = traced(stack, "before", tracing.CHANGES, None, files)
        roots = [f"{root}/" for root in (stack.uploads, stack.archive, stack.ledger)]
        points = [call for call in trace if any(root in call.arguments for root in roots)]
        names = sorted({call.name for call in points})
        assert {"linkat", "unlinkat", "pwrite64"} <= set(names), names
        while done < KILLED or (not met and done < KILLED + MORE):
            name = names[done % len(names)]
            number = rng.choice([call.number for call in points if call.name == name])
            inject = f"{name}:signal=SIGKILL:when={number}"
            hit, _ = traced(stack, f"k{done:04d}", [name], inject, files)
            done, met = done + 1, met + hit
            found = Checker(stack.uploads, stack.archive, stack.ledger, True)
            violations = found.run()["violations"]
            archived = Counter(e["study_id"] for e in found.entries if e["kind"] == "archived")
            seconds = round(time.monotonic() - began, 1)
            counts = {"points": met, "of": KILLED, "studies": len(files), "violations": len(violations), "seed": SEED, "seconds": seconds}
            note("workers' system calls", **counts)
            assert violations == [], inject
            assert archived == dict.fromkeys(files, 1), inject
            assert all(status_server.status(study_id) == "archived" for study_id in files), inject
        assert met, "no worker was killed"
        assert_archived(stack, files)
        assert stack.stop() == 0
    finally:
        stack.close()


def traced(stack: Stack, name: str, names: Sequence[str], inject: str | None, files: dict[str, bytes]) -> tuple[bool, list[tracing.Call]]:
    """Archive some files while a worker is traced; return whether it was killed, and its calls."""
    victim = until(lambda: stack.workers()[0] if stack.workers() else None, 30, what="a worker")
    trace = stack.root / f"{name}.trace"
    tracer = tracing.attach(victim, ["-f", *tracing.options(trace, names, inject)])
    try:
        mine = {}
        for i in range(AT_ONCE):
            study_id = f"{name}-{i}"
            message, mine[study_id] = upload(stack, study_id, seed=len(files) + i)
            stack.publish(message)
        until(lambda: described(stack, mine), 30, what="all to be recorded")
        files |= mine
        until(stack.idle, 90, what=f"all to be done under {inject}, seed {SEED}")
        hit = victim not in stack.workers()
    finally:
        tracer.terminate()  # it lets go of a worker that is still there
        tracer.communicate(timeout=30)
    return hit, list(tracing.calls(trace))


def described(stack: Stack, studies: dict[str, bytes]) -> bool:
    checker = Checker(stack.uploads, stack.archive, stack.ledger, False)
    checker.read_ledger()
    return studies.keys() <= {e["study_id"] for e in checker.entries if e["kind"] == "described"}


def fault(stack: Stack, what: str, rng: random.Random) -> None:
    """Do it, and let everything run again."""
    victim = rng.choice(until(lambda: stack.workers() if len(stack.workers()) == 2 else None, 30))
    if what == "kill a worker":
        os.kill(victim, signal.SIGKILL)
        return
    if what != "kill the service":
        os.kill(victim, signal.SIGSTOP)
    if what.endswith("kill the service"):
        stack.kill(workers_end=False)
    later = threading.Timer(rng.uniform(0.05, 1.0), wake, (victim,))
    later.start()
    if what.endswith("kill the service"):
        stack.start()
    later.join()


def wake(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
