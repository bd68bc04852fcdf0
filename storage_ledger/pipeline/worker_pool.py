"""Workers on some stages of the work queue: claim what is due, work on it in a few threads, record the outcomes in groups.

Whatever one work item raises is that item's own failure: it is recorded, tried again later, and stops nobody else. Only a ledger
that cannot be used ends a pool.

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
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage_ledger.domain.backoff import backoff_s
from storage_ledger.domain.ids import instant
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.ledger.contract import Ledger, WorkItem
from storage_ledger.pipeline.failures import postpone_unsaid, record_internal_error
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

Outcome = TypeVar("Outcome")
AHEAD = 4  # studies that are claimed for each worker
GATHER_S = 0.01
CALM_S = 60.0  # so long without a shared cause, and the pauses begin small again
LOOK_EVERY_S = 1.0  # another process may append; nobody tells us
HANGS_AFTER_S = 120.0  # without a sign of life: see `WorkerPool.beat`
MOST_HANGING = 32  # threads that are given up on; beyond that the pool is as stuck as its volume
SCAN_SHARE = 5  # a look past the studies in hand that took long and found nothing is repeated after this many times as long


@dataclass(frozen=True, slots=True)
class _Result(Generic[Outcome]):
    """What came of these work items: an outcome, or what was raised instead."""

    work_items: list[WorkItem]
    outcome: Outcome | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Task(Generic[Outcome]):
    """Work items in somebody's hands. `begun`: in which round it was handed out; `alive_at`: the last sign of life, None before it runs.

    `singly`: one of its work items broke `work` or `record` for all of them, so each is worked on and recorded by itself, before the next.
    """

    work_items: list[WorkItem]
    begun: int
    future: Future[list[_Result[Outcome]]]
    singly: bool = False
    alive_at: float | None = None
    hangs: bool = False


class WorkerPool(Generic[Outcome]):
    """Work items of some stages. One study is in at most one pair of hands, and its work items go in order.

    `work` gets the due work items of one study (with `by_study=False`: of all) and returns an outcome; `record` gets the
    outcomes that are there, and commits them together: the slower the disk, the larger the groups. It is also told
    whether they were all begun after the last pause: only then does a success say that a shared cause has gone. What
    `record` could not commit (`LedgerBusy`) is simply done again: every effect may be done twice. When either raises
    anything else, the work items are taken one by one, and the one that raises is recorded as `failed` (`internal-error`)
    and tried again with backoff. `bell` rings when there may be something to do. `gather_s`: how long to
    wait for company; `drain`: on a stop, do what is due before ending; `up_to`: only entries up to that position count.
    `on_hanging` gets the work items of a `work` that gave no sign of life for `hangs_after_s`; it may append, and its work items stay
    in those hands until they come back.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        stages: Sequence[Stage],
        *,
        work: Callable[[list[WorkItem]], Outcome],
        record: Callable[[list[Outcome], bool], None],
        metrics: Metrics,
        bell: threading.Event,
        workers: int,
        by_study: bool = True,
        most: int = 64,
        gather_s: float = 0.0,
        drain: bool = False,
        up_to: Callable[[], int] | None = None,
        on_hanging: Callable[[list[WorkItem]], None] = lambda _: None,
        hangs_after_s: float = HANGS_AFTER_S,
    ) -> None:
        self.name = name
        self._ledger = ledger
        self._stages = stages
        self._work = work
        self._record = record
        self._metrics = metrics
        self._workers = workers
        self._by_study = by_study
        self._most = most
        self._gather_s = gather_s
        self._drain = drain
        self._up_to = up_to
        self._on_hanging = on_hanging
        self._hangs_after_s = hangs_after_s
        self._bell = bell
        self._running: dict[Future[list[_Result[Outcome]]], _Task[Outcome]] = {}
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
        self._scan_at = 0.0
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

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
        """Until `stop` is set and what was begun is recorded, but for what hangs. May be called again after it has raised."""
        while self._workers_there < self._workers:
            self._hire()
        self._go_round(stop)
        for _ in range(self._workers_there):
            self._tasks.put(None)

    def _go_round(self, stop: threading.Event) -> None:
        while True:
            if self._gather_s and not stop.is_set():
                stop.wait(self._gather_s)  # nobody waits for this pool: fewer and larger groups cost less
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
            task.future.set_result(self._results(task))
            if task.hangs:  # another one has taken this one's place
                return

    def _results(self, task: _Task[Outcome]) -> list[_Result[Outcome]]:
        """Never raises."""
        if not task.singly:
            together = self._try(task.work_items)
            if together.error is None or len(task.work_items) == 1 or _is_of_the_ledger(together.error):
                return [together]
        return [self._try(task.work_items[:1])]  # the others when this one is recorded: they build on it (one metadata.json)

    def _try(self, work_items: list[WorkItem]) -> _Result[Outcome]:
        try:
            return _Result(work_items, outcome=self._work(work_items))
        except BaseException as error:  # noqa: BLE001 - becomes the outcome of these work items; the pool's own thread records it
            return _Result(work_items, error=error)

    def _give_up_on_hanging(self) -> None:
        now = time.monotonic()
        for task in self._running.values():
            silent_s = 0.0 if task.alive_at is None or task.future.done() else now - task.alive_at
            if task.hangs or silent_s < self._hangs_after_s or self._hanging == MOST_HANGING:
                continue
            task.hangs = True
            self._hanging += 1
            self._hire()
            positions = [work_item.entry.position for work_item in task.work_items]
            logs.get().error(f"{self.name}.hangs", position=positions[0], count=len(positions))
            try:
                self._on_hanging(task.work_items)
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
        try:
            if self._hand_out(free) == free:
                return LOOK_EVERY_S
            scan_s = self._scan_at - time.monotonic()
            return min(scan_s, LOOK_EVERY_S) if scan_s > 0 else self._next_due_s()
        except LedgerBusy as error:
            return self._stumbled(error)

    def _hand_out(self, free: int) -> int:
        """Hand out up to `free` groups of work items. Returns how many.

        A page may be full of one study's work items, of which only one group goes out at a time: then the next page is asked for
        without that study, so that the others get their turn.
        """
        in_hand = [work_item.entry for task in self._running.values() for work_item in task.work_items]
        studies = {entry.study_id for entry in in_hand if entry.study_id} if self._by_study else set()
        busy = [entry.position for entry in in_hand if entry.study_id not in studies]
        limit = max(self._most, free)
        handed_out = 0
        while handed_out < free:
            began = time.monotonic()
            if studies and began < self._scan_at:
                break
            up_to = self._up_to() if self._up_to else None
            due = self._ledger.due(self._stages, limit=limit, busy=busy, busy_studies=studies, up_to=up_to)
            if not due and studies:  # it had to read all their work items: with a hundred thousand of them not at each wake-up
                self._scan_at = time.monotonic() + SCAN_SHARE * (time.monotonic() - began)
            groups = self._groups(due)[: free - handed_out]
            for group in groups:
                self._begin(group)
                busy += [work_item.entry.position for work_item in group if not work_item.entry.study_id]
                studies |= {work_item.entry.study_id for work_item in group if work_item.entry.study_id}
            handed_out += len(groups)
            if len(due) < limit or not self._by_study:
                break
        return handed_out

    def _begin(self, work_items: list[WorkItem], *, singly: bool = False) -> None:
        task = _Task(work_items, self._round, Future[list[_Result[Outcome]]](), singly)
        task.future.add_done_callback(lambda _: self._bell.set())
        self._running[task.future] = task
        self._tasks.put(task)

    def _groups(self, due: list[WorkItem]) -> list[list[WorkItem]]:
        if not self._by_study:
            return [due] if due else []
        groups: dict[str | int, list[WorkItem]] = {}
        for work_item in due:
            groups.setdefault(work_item.entry.study_id or work_item.entry.position, []).append(work_item)
        return [sorted(group[: self._most], key=lambda work_item: work_item.entry.position) for group in groups.values()]

    def _collect(self) -> None:
        done = [task for task in self._running.values() if task.future.done()]
        if not done:
            return
        try:
            self._take(done)
        except LedgerBusy as error:
            self._stumbled(error)
        finally:
            for task in done:
                del self._running[task.future]
                self._hanging -= task.hangs

    def _take(self, done: list[_Task[Outcome]]) -> None:
        """Record what came of these tasks. What raised `LedgerBusy` is claimed again; `LedgerUnusable` is raised."""
        fresh = all(task.begun == self._round for task in done)
        results = [result for task in done for result in task.future.result()]
        for result in results:
            if isinstance(result.error, LedgerUnusable) and _is_of_the_ledger(result.error):
                raise result.error
            if isinstance(result.error, LedgerBusy):
                self._stumbled(result.error)
        good = [result for result in results if result.error is None]
        if good and not self._recorded(good, fresh):
            for result in good:
                if len(good) == 1 or not self._recorded([result], fresh):
                    self._begin(result.work_items, singly=True)
        for result in results:
            if result.error is not None and not _is_of_the_ledger(result.error):
                self._put_off(result.work_items, result.error)
        for task in done:
            if rest := task.work_items[sum(len(result.work_items) for result in task.future.result()) :]:
                self._begin(rest, singly=True)

    def _recorded(self, results: list[_Result[Outcome]], fresh: bool) -> bool:
        """Whether `record` took these outcomes. Raises `LedgerError` where the ledger is the reason; nothing is committed then."""
        try:
            self._record([result.outcome for result in results if result.outcome is not None], fresh)
        except BaseException as error:
            if _is_of_the_ledger(error):
                raise
            if len(results) == 1 and len(results[0].work_items) == 1:
                self._put_off(results[0].work_items, error)
                return True
            logs.get().error(f"{self.name}.record-failed", error_type=type(error).__name__, frames_at=logs.where(error))
            return False
        return True

    def _put_off(self, work_items: list[WorkItem], error: BaseException) -> None:
        for work_item in work_items:
            try:
                record_internal_error(self._ledger, self._metrics, work_item, error)
            except BaseException as another:
                if _is_of_the_ledger(another):
                    raise
                position = work_item.entry.position
                logs.get().error(f"{self.name}.record-failed", position=position, error_type=type(another).__name__)
                self._put_off_unsaid(work_item)

    def _put_off_unsaid(self, work_item: WorkItem) -> None:
        """Not even that could be recorded. It must not be claimed again at once, and the others must not wait for it."""
        try:
            postpone_unsaid(self._ledger, work_item)
        except BaseException as error:
            if _is_of_the_ledger(error):
                raise
            self.pause()

    def _stumbled(self, error: LedgerBusy) -> float:
        seconds = self.pause()
        logs.get().warning("ledger.busy", thread=self.name, code=error.code, due_in_s=round(seconds, 1))
        return seconds

    def _next_due_s(self) -> float:
        due = self._ledger.next_due(self._stages)
        with suppress(ValueError):  # no time at all stands in that row
            return LOOK_EVERY_S if due is None else min(LOOK_EVERY_S, max(0.005, instant(due).timestamp() - time.time()))
        return LOOK_EVERY_S


def _is_of_the_ledger(error: BaseException) -> bool:
    """Whether the ledger itself is the reason, and not one of its entries (which another program may have written: `ledger-newer`)."""
    return isinstance(error, LedgerBusy) or (isinstance(error, LedgerUnusable) and error.code != "ledger-newer")
