"""One lane of the work queue: claim what is due, work on it in a few threads, record the outcomes in groups.

A call into a volume that hangs (a network file system whose server is gone) comes back when it likes, and no thread can be
called away from it. So one that hangs is given up on, not waited for: another worker takes its place.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage_ledger import logs
from storage_ledger.core.ids import instant
from storage_ledger.core.plan import Stage
from storage_ledger.core.retry import backoff_s
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.contract import Duty, Ledger

Outcome = TypeVar("Outcome")
AHEAD = 4  # studies that are claimed for each worker
GATHER_S = 0.01
CALM_S = 60.0  # so long without a shared cause, and the pauses begin small again
LOOK_EVERY_S = 1.0  # another process may append; nobody tells us
HANGS_AFTER_S = 120.0  # without a sign of life: see `Lane.beat`
MOST_HANGING = 32  # threads that are given up on; beyond that the lane is as stuck as its volume


@dataclass(slots=True)
class _Task(Generic[Outcome]):
    """Duties in somebody's hands. `begun`: in which round it was handed out; `alive_at`: the last sign of life, None before it runs."""

    duties: list[Duty]
    begun: int
    future: Future[Outcome]
    alive_at: float | None = None
    hangs: bool = False


class Lane(Generic[Outcome]):
    """Duties of some stages. One study is in at most one pair of hands, and its duties go in order.

    `work` gets the due duties of one study (with `by_study=False`: of all) and returns an outcome; `record` gets the
    outcomes that are there, and commits them together: the slower the disk, the larger the groups. It is also told
    whether they were all begun after the last pause: only then does a success say that a shared cause has gone. What
    `record` could not commit (`LedgerBusy`) is simply done again: every effect may be done twice. `gather_s`: how long to
    wait for company; `drain`: on a stop, do what is due before ending; `up_to`: only entries up to that position count.
    `on_hanging` gets the duties of a `work` that gave no sign of life for `hangs_after_s`; it may append, and its duties stay
    in those hands until they come back.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        stages: Sequence[Stage],
        *,
        work: Callable[[list[Duty]], Outcome],
        record: Callable[[list[Outcome], bool], None],
        workers: int,
        by_study: bool = True,
        most: int = 64,
        gather_s: float = 0.0,
        drain: bool = False,
        up_to: Callable[[], int] | None = None,
        on_hanging: Callable[[list[Duty]], None] = lambda _: None,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        self.name = name
        self._ledger = ledger
        self._stages = stages
        self._work = work
        self._record = record
        self._workers = workers
        self._by_study = by_study
        self._most = most
        self._gather_s = gather_s
        self._drain = drain
        self._up_to = up_to
        self._on_hanging = on_hanging
        self._hangs_after_s = hangs_after_s
        self._bell = threading.Event()
        self._running: dict[Future[Outcome], _Task[Outcome]] = {}
        self._tasks: queue.SimpleQueue[_Task[Outcome] | None] = queue.SimpleQueue()
        self._mine = threading.local()
        self._counting = threading.Lock()
        self._workers_there = 0
        self._hanging = 0
        self._paused_until = 0.0
        self._probing = False
        self._pauses = 0
        self._round = 0
        self._resumed_at = 0.0
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def wake(self) -> None:
        """There may be something to do."""
        self._bell.set()

    def beat(self) -> None:
        """A sign of life of the `work` that calls it: for what may take long, but goes on."""
        task = getattr(self._mine, "task", None)
        if task is not None:
            task.alive_at = time.monotonic()

    @property
    def hanging(self) -> int:
        """How many `work`s have given no sign of life for too long, and have not come back."""
        return self._hanging

    def pause(self, *, base_s: float = 0.5, cap_s: float = 30.0) -> float:
        """A shared cause: claim nothing for a while, longer each time, then try one at a time. Returns the seconds."""
        if not self._probing and time.monotonic() - self._resumed_at > CALM_S:
            self._pauses = 0
        self._pauses += 1
        self._round += 1
        seconds = backoff_s(self._pauses, base_s=base_s, cap_s=cap_s, chance=self._random.random())
        self._paused_until = time.monotonic() + seconds
        self._probing = True
        return seconds

    def resume(self) -> None:
        """The shared cause has gone. If it comes back soon, the next pause is longer than the last one all the same."""
        if self._probing:
            self._resumed_at = time.monotonic()
        self._paused_until = 0.0
        self._probing = False

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and what was begun is recorded, but for what hangs."""
        for _ in range(self._workers):
            self._hire()
        try:
            while True:
                if self._gather_s and not stop.is_set():
                    stop.wait(self._gather_s)  # nobody waits for this lane: fewer and larger groups cost less
                elif len(self._running) > 1:
                    stop.wait(GATHER_S)  # others are about to end: one commit for all of them
                self._bell.clear()
                self._collect()
                self._give_up_on_hanging()
                if stop.is_set():
                    if not self._at_work() and self._drain:
                        self._claim()
                    if not self._at_work():
                        return
                    self._bell.wait(LOOK_EVERY_S)
                    continue
                self._bell.wait(self._claim())
        finally:
            for _ in range(self._workers_there):
                self._tasks.put(None)

    def _at_work(self) -> int:
        return sum(not task.hangs for task in self._running.values())

    def _hire(self) -> None:
        with self._counting:
            self._workers_there += 1
            number = self._workers_there
        threading.Thread(target=self._work_on_tasks, name=f"{self.name}_{number}", daemon=True).start()

    def _work_on_tasks(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._mine.task = task
            self.beat()
            try:
                outcome = self._work(task.duties)
            except BaseException as error:  # noqa: BLE001 - raised again by who collects it
                task.future.set_exception(error)
            else:
                task.future.set_result(outcome)
            if task.hangs:  # another one has taken this one's place
                return

    def _give_up_on_hanging(self) -> None:
        now = time.monotonic()
        for task in self._running.values():
            silent_s = 0.0 if task.alive_at is None or task.future.done() else now - task.alive_at
            if task.hangs or silent_s < self._hangs_after_s or self._hanging == MOST_HANGING:
                continue
            task.hangs = True
            self._hanging += 1
            self._hire()
            positions = [duty.entry.position for duty in task.duties]
            logs.get().error(f"{self.name}.hangs", position=positions[0], count=len(positions))
            try:
                self._on_hanging(task.duties)
            except LedgerBusy as error:
                self._stumbled(error)

    def _claim(self) -> float:
        """Hand out what is due; returns after how many seconds to look again."""
        paused_s = self._paused_until - time.monotonic()
        if paused_s > 0:
            return min(paused_s, LOOK_EVERY_S)
        # Some wait in the pool already, so that a worker that is done need not wait for the ledger.
        room = 1 if self._probing else self._workers * AHEAD
        at_work = self._at_work()
        free = room - at_work
        if free <= 0 or (free < room / 2 and at_work > self._workers):
            return LOOK_EVERY_S
        in_hand = [duty.entry for task in self._running.values() for duty in task.duties]
        busy = [entry.position for entry in in_hand]
        studies = {entry.study_id for entry in in_hand if entry.study_id}
        try:
            due = self._ledger.due(
                self._stages,
                limit=max(self._most, free),
                busy=busy,
                busy_studies=studies if self._by_study else (),
                up_to=self._up_to() if self._up_to else None,
            )
            groups = self._groups(due)[:free]
            for group in groups:
                task = _Task(group, self._round, Future[Outcome]())
                task.future.add_done_callback(lambda _: self._bell.set())
                self._running[task.future] = task
                self._tasks.put(task)
            return self._next_due_s() if len(groups) < free else LOOK_EVERY_S
        except LedgerBusy as error:
            return self._stumbled(error)

    def _groups(self, due: list[Duty]) -> list[list[Duty]]:
        if not self._by_study:
            return [due] if due else []
        groups: dict[str | int, list[Duty]] = {}
        for duty in due:
            groups.setdefault(duty.entry.study_id or duty.entry.position, []).append(duty)
        return [sorted(group[: self._most], key=lambda duty: duty.entry.position) for group in groups.values()]

    def _collect(self) -> None:
        done = [task for task in self._running.values() if task.future.done()]
        if not done:
            return
        try:
            self._record([task.future.result() for task in done], all(task.begun == self._round for task in done))
        except LedgerBusy as error:
            self._stumbled(error)
        finally:
            for task in done:
                del self._running[task.future]
                self._hanging -= task.hangs

    def _stumbled(self, error: LedgerBusy) -> float:
        seconds = self.pause()
        logs.get().warning("ledger.busy", thread=self.name, code=error.code, due_in_s=round(seconds, 1))
        return seconds

    def _next_due_s(self) -> float:
        due = self._ledger.next_due(self._stages)
        return LOOK_EVERY_S if due is None else min(LOOK_EVERY_S, max(0.005, instant(due).timestamp() - time.time()))
