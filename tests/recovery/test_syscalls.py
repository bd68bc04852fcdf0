"""Each system call of the file and ledger paths fails once, or the process is killed at it.

A run of the driver is traced to list its calls. Each call that touches uploads, archive or ledger is a point for a fault: SIGKILL
instead of it, or EIO or ENOSPC from it. Then the service's parts continue or restart, and everything is checked.

STORAGE_LEDGER_POINTS: how many faults (24; 0: every one, and a third as many again in recoveries), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.recovery import tracing
from tests.recovery.trial import Driver, Trial, Violations, copy_of, empty, summary, template
from tests.support.figures import note
from tests.support.memory import in_memory
from tests.support.stack import Stack
from tests.support.status_server import StatusServer
from tests.support.valkey import Valkey
from tests.support.waiting import until

POINTS = int(os.environ.get("STORAGE_LEDGER_POINTS", "24"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))
MORE = 10
SERVED = 200 if POINTS == 0 else POINTS // 10 if POINTS >= 600 else 2  # points tried on the whole service
HANDS = 2
TRIES = 3
NEVER_MET = "never-met"
AREAS = ("uploads", "archive", "ledger")
LONG = POINTS == 0 or POINTS > 100
CUT_SHORT = 12 if LONG else 4  # killed runs whose recoveries get faults, too
NEVER_FSYNCED_AGAIN = frozenset({"file-fsynced-again", "folder-fsynced-again", "ledger-fsynced-again"})


@dataclass(frozen=True, slots=True)
class Point:
    """A fault in the `number`-th call of `name` in the run that begins at `start`."""

    start: str
    name: str
    number: int
    fault: str
    area: str = ""

    @property
    def inject(self) -> str:
        """Return strace's option for this fault."""
        what = "signal=SIGKILL" if self.fault == "SIGKILL" else f"error={self.fault}"
        return f"{self.name}:{what}:when={self.number}"


class Bench:
    """The starting points of runs, the calls of each, and a pool of drivers for trials in parallel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drivers: list[Driver] = []
        self._mine = threading.local()
        self._count = 0
        self._lock = threading.Lock()
        driver = self.driver()
        self.starts: dict[str, Trial] = {"first": empty(driver, folder / "first"), "work": template(driver, folder / "work")}
        self._calls: dict[str, list[tuple[str, tracing.Call]]] = {}

    def driver(self) -> Driver:
        """Return this thread's driver."""
        if not hasattr(self._mine, "driver"):
            with self._lock:
                folder = self.folder / f"hand-{len(self.drivers)}"
                folder.mkdir()
                self._mine.driver = Driver(folder)
                self.drivers.append(self._mine.driver)
        found: Driver = self._mine.driver
        return found

    def close(self) -> None:
        """End everything still running."""
        for driver in self.drivers:
            driver.close()

    def trial(self, start: str) -> Trial:
        """Copy a starting point for one trial."""
        with self._lock:
            self._count += 1
            root = self.folder / f"trial-{self._count}"
        return copy_of(self.starts[start], self.driver(), root)

    def calls(self, start: str) -> list[tuple[str, tracing.Call]]:
        """Return area and call of each that touches one, in a run from this starting point: the same in each. Paths begin at the area."""
        if start not in self._calls:
            trial = self.trial(start)
            ended = trial.run(traced=tracing.ALL)
            assert ended.code == 0, ended.why
            trial.check(settled=True)
            assert trial.violations == []
            found = self._calls[start] = []
            for call in ended.trace:
                area = next((area for area in AREAS if f"{trial.root / area}" in call.arguments), None)
                if area is not None:
                    found.append((area, replace(call, arguments=call.arguments.replace(str(trial.root), ""))))
            shutil.rmtree(trial.root)
        return self._calls[start]

    def points(self, start: str) -> list[Point]:
        """Return every possible fault in a run from this starting point."""
        found = []
        for area, call in self.calls(start):
            errors = ["EIO", "ENOSPC"] if call.name in tracing.TAKES_SPACE else ["EIO"]
            faults = ["SIGKILL", *(errors if call.may_fail else [])]
            found += [Point(start, call.name, call.number, fault, area) for fault in faults]
        return found

    def cut_short(self, point: Point) -> str:
        """Make a starting point from a run killed at `point`; return its name."""
        trial = self.trial(point.start)
        trial.run(inject=point.inject, traced=[point.name])
        assert trial.violations == [], point
        name = f"after {point.start} {point.name}:{point.number}"
        self.starts[name] = trial
        return name

    def meet(self, point: Point, again: Point | None = None) -> Violations:
        """Run one trial: the fault, in some trials another one in the recovery, and the check of what is left.

        Runs from one start may differ by a call that only looks: a fault that none meets is tried again.
        """
        for _ in range(TRIES):
            violations = self._meet(point, again)
            if not any(each["code"] == NEVER_MET for each in violations):
                break
        return violations

    def _meet(self, point: Point, again: Point | None) -> Violations:
        trial = self.trial(point.start)
        of_error = point.fault != "SIGKILL"
        ended = trial.run(inject=point.inject, traced=tracing.FSYNCS if of_error and "sync" in point.name else [point.name])
        hit = any(call.injected for call in ended.trace) if of_error else ended.code is None
        if not hit and point.name in {"mmap", "getdents64"}:
            pass  # memory is mapped, and /proc listed, with them, too, a varying number of times
        elif not hit:
            trial.bad(NEVER_MET)  # the runs differ: the fault hit another call, or none
        elif of_error:
            trial.outlived(ended)
        trial.violations += tracing.fsynced_again(ended.trace, archive=trial.archive, ledger=trial.ledger)
        if again is not None:
            trial.run(inject=again.inject, traced=[again.name])
        if ended.code != 0 or again is not None:
            trial.settle()
        trial.check(settled=True)
        for violation in trial.violations:
            violation["point"] = f"{point.start}: {point.inject}" + (f", then {again.inject}" if again else "")
            violation["area"] = point.area
        shutil.rmtree(trial.root)
        return trial.violations


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    tracing.needs_strace()
    # A failed call or a kill leaves the same state in memory as on a disk, and memory is faster.
    with in_memory(tmp_path_factory.mktemp("syscalls")) as folder:
        made = Bench(folder)
        yield made
        made.close()


def spread(points: list[Point], count: int, rng: random.Random) -> list[Point]:
    """Choose `count` of them (0: all): one for each combination of call, area and fault, then a second one, …"""
    kinds: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.start.partition(" ")[0], point.area, point.name, point.fault].append(point)
    for group in kinds.values():
        rng.shuffle(group)
    rounds = []
    groups = list(kinds.values())
    while groups:
        rng.shuffle(groups)
        rounds += [group.pop() for group in groups]
        groups = [group for group in groups if group]
    return rounds[:count] if count else rounds


@pytest.mark.timeout(4 * 3600)
def test_every_system_call_may_fail_or_be_the_last(bench: Bench) -> None:
    rng = random.Random(SEED)
    points = bench.points("work") + bench.points("first")
    killed = [point for point in points if point.fault == "SIGKILL" and point.name in tracing.CHANGES]
    recoveries: list[Point] = []
    for point in rng.sample(killed, CUT_SHORT):
        recoveries += bench.points(bench.cut_short(point))
    chosen = spread(points, POINTS * 3 // 4, rng)
    chosen += spread(recoveries, max(1, len(chosen) // 3), rng)
    trials = [(point, rng.choice(recoveries) if n % 8 == 0 else None) for n, point in enumerate(chosen)]
    violations: Violations = []
    done = studies = 0
    with ThreadPoolExecutor(HANDS) as pool:
        futures = {pool.submit(bench.meet, *trial): trial[0] for trial in trials}
        for future in as_completed(futures):
            violations += [found for found in future.result() if found["code"] not in NEVER_FSYNCED_AGAIN]
            done += 1
            studies += bench.starts[futures[future].start].scenario.studies
            note("syscalls", points=done, of=len(trials), studies=studies, seed=SEED, violations=len(violations), found=violations[:20])
    assert not violations, summary(violations)


def test_an_upload_folder_that_cannot_be_closed_stops_nobody(bench: Bench) -> None:
    closed = [point for point in bench.points("first") if (point.name, point.area, point.fault) == ("close", "uploads", "EIO")]
    assert closed
    violations = [found for point in closed for found in bench.meet(point)]
    assert not violations, summary(violations)


def test_an_index_that_could_not_be_opened_for_writing_once_is_opened_again(bench: Bench) -> None:
    """If SQLite cannot open a file for writing, it silently opens it for reading."""
    opened = [call for _, call in bench.calls("work") if call.name == "openat" and "/index.db" in call.arguments]
    assert opened
    violations = [found for call in opened for found in bench.meet(Point("work", call.name, call.number, "EIO"))]
    assert not violations, summary(violations)


def test_a_lock_whose_file_cannot_be_closed_is_let_go_of(bench: Bench) -> None:
    """With an injected error strace skips the close, so the next request for the lock would deadlock unless it was unlocked first."""
    closed = [call for _, call in bench.calls("work") if call.name == "close" and ".lock" in call.arguments]
    assert closed
    violations = [found for call in closed for found in bench.meet(Point("work", call.name, call.number, "EIO"))]
    assert not violations, summary(violations)


@pytest.fixture(scope="module")
def after_failed_fsyncs(bench: Bench) -> Violations:
    """Each fsync fails once; in a short run, only the first and the last one of each file or folder."""
    of_file: dict[str, list[tracing.Call]] = defaultdict(list)
    for _, call in bench.calls("work"):
        if call.name in {"fsync", "fdatasync"}:
            of_file[call.paths[0]].append(call)
    chosen = [call for calls in of_file.values() for n, call in enumerate(calls, 1) if LONG or n in {1, len(calls)}]
    points = [Point("work", call.name, call.number, "EIO") for call in chosen]
    with ThreadPoolExecutor(HANDS) as pool:
        found = [found for violations in pool.map(bench.meet, points) for found in violations]
    assert not [other for other in found if other["code"] not in NEVER_FSYNCED_AGAIN]
    return found


def test_a_file_of_which_an_fsync_failed_is_made_anew(after_failed_fsyncs: Violations) -> None:
    found = [found for found in after_failed_fsyncs if found["code"] == "file-fsynced-again"]
    assert not found, summary(found)


def test_names_of_which_an_fsync_failed_are_put_anew(after_failed_fsyncs: Violations) -> None:
    found = [found for found in after_failed_fsyncs if found["code"] == "folder-fsynced-again"]
    assert not found, summary(found)


def test_pages_of_the_ledger_of_which_an_fsync_failed_are_written_again(after_failed_fsyncs: Violations) -> None:
    found = [found for found in after_failed_fsyncs if found["code"] == "ledger-fsynced-again"]
    assert not found, summary(found)


MESSAGES = 6


def served(
    root: Path, valkey: Valkey, status_server: StatusServer, name: str, inject: str | None, names: Sequence[str]
) -> tuple[Stack, bool, Violations]:
    """Run the whole service under strace, with all threads; return whether the fault was hit, and what was wrong."""
    stack = Stack(root, valkey, status_server.url)
    trace = root / "trace"
    violations: Violations = []
    files = {f"{name}-{n}": random.Random(f"{name}-{n}").randbytes(20_000) for n in range(MESSAGES)}
    for study_id, data in files.items():
        (stack.uploads / f"{study_id}.dcm").write_bytes(data)

    def publish() -> None:
        for study_id in files:
            if (stack.uploads / f"{study_id}.dcm").exists():
                stack.publish({"study_id": study_id, "file_path": f"{study_id}.dcm"})

    def ended() -> bool:
        assert stack.process is not None
        return stack.process.poll() is not None

    def done() -> bool:
        return all(status_server.status(study_id) == "archived" for study_id in files) and stack.idle()

    try:
        # With --seccomp-bpf, strace 6.1 injects errors and results but no signals.
        faster = [] if inject and "signal" in inject else ["--seccomp-bpf"]
        stack.start(ready=False, under=["strace", "-f", *faster, "-qq", *tracing.options(trace, names, inject)])
        until(
            lambda: ended() or stack.metric("storage_ledger_source_subscribed") == 1, 120, what=f"serve to hear, or to end, under {inject}"
        )
        publish()
        stack.publish(b"{")
        try:
            until(lambda: ended() or done(), 120, every_s=0.05)
        except AssertionError:
            violations.append({"code": "comes-no-further"})
            stack.kill()
        assert stack.process is not None
        code = stack.process.poll() if ended() else stack.stop()
        hit = any(call.injected for call in tracing.calls(trace)) or code == -9
        if code == 2:
            died = [
                line
                for line in stack.log.read_text().splitlines()
                if "thread.died" in line and "code=ledger-damaged" not in line and "thread=web" not in line
            ]
            violations += [{"code": "ended-by-an-error", "why": line} for line in died]
        if code:
            stack.start()
            publish()
            until(done, 120, what="recovery to finish", every_s=0.05)
            assert stack.stop() == 0
        violations += stack.check()["violations"]
        for study_id, data in files.items():
            archived = [path.read_bytes() for path in (stack.archive / study_id).iterdir() if path.name != "metadata.json"]
            if archived != [data]:
                violations.append({"code": "archive-differs", "study_id": study_id})
        return stack, hit, [{**violation, "point": f"serve: {inject}"} for violation in violations]
    finally:
        stack.close()


@pytest.mark.timeout(4 * 3600)
def test_the_whole_service_outlives_a_system_call_that_fails(tmp_path: Path, valkey: Valkey, status_server: StatusServer) -> None:
    """Use all threads: which one is hit, and when, is random, because strace counts calls per thread."""
    tracing.needs_strace()
    rng = random.Random(SEED)
    (tmp_path / "whole").mkdir()
    stack, _, violations = served(tmp_path / "whole", valkey, status_server, "whole", None, tracing.ALL)
    assert violations == []
    roots = [str(stack.uploads), str(stack.archive), str(stack.ledger)]
    calls = [call for call in tracing.calls(tmp_path / "whole" / "trace") if any(root in call.arguments for root in roots)]
    kinds: dict[str, list[tracing.Call]] = defaultdict(list)
    for call in calls:
        if call.may_fail:
            kinds[call.name].append(call)
    done = met = 0

    def one(n: int) -> tuple[bool, Violations]:
        with lock:
            call = rng.choice(kinds[rng.choice(sorted(kinds))])
            fault = rng.choice(["signal=SIGKILL", "error=EIO", *(["error=ENOSPC"] if call.name in tracing.TAKES_SPACE else [])])
        root = tmp_path / f"point-{n}"
        root.mkdir()
        _, hit, found = served(root, valkey, status_server, f"p{n}", f"{call.name}:{fault}:when={call.number}", [call.name])
        shutil.rmtree(root)
        return hit, found

    lock = threading.Lock()
    with ThreadPoolExecutor(HANDS) as pool:
        outcomes = pool.map(one, range(SERVED))
        while (outcome := next(outcomes, None)) is not None or (not met and done < SERVED + MORE):
            hit, found = outcome or one(done)  # a few points may all be missed: then try more
            violations += found
            done += 1
            met += hit
            note(
                "syscalls of serve",
                points=met,
                of=SERVED,
                studies=done * MESSAGES,
                seed=SEED,
                violations=len(violations),
                found=violations[:20],
            )
    assert not violations, summary(violations)
    assert met, "no fault was met"
