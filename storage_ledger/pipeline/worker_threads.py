"""The threads of a worker pool, and the work they have.

A call into a hanging volume (a network file system whose server is gone) may never return, and its thread cannot be
interrupted. So it is given up, not waited for: another worker takes its place.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LEDGER_NEWER, LedgerBusy, LedgerUnusable
from storage_ledger.ledger.contract import WorkItem

Outcome = TypeVar("Outcome")
MOST_HANGING = 32  # most threads given up; beyond that, the pool is as stuck as its volume

_hands = threading.local()


class GivenUp(Exception):
    """Another thread has taken over the rest of this task while this one hung."""


def beat() -> None:
    """Give a sign of life, from work that takes long but makes progress. Does nothing outside a worker's thread."""
    task: WorkerTask[object] | None = getattr(_hands, "task", None)
    if task is not None:
        task.alive_at = time.monotonic()


def turn_to(study_id: str | None) -> None:
    """Say which of the task's studies the work is for now; None: for all of them. Raises `GivenUp`; let it pass.

    If this thread then hangs, another one takes over the other studies.
    """
    task: WorkerTask[object] | None = getattr(_hands, "task", None)
    if task is not None:
        with task.lock:
            if task.is_split:
                raise GivenUp
            task.study_id = study_id
            task.alive_at = time.monotonic()


def hand_back(count: int) -> None:
    """Leave that many last work items of the task undone: it would take too long to do all at once. They are claimed again."""
    task: WorkerTask[object] | None = getattr(_hands, "task", None)
    if task is not None:
        task.handed_back = count


@dataclass(frozen=True, slots=True)
class WorkResult(Generic[Outcome]):
    """The result of these work items: an outcome, or the exception raised instead."""

    work_items: list[WorkItem]
    outcome: Outcome | None = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class WorkerTask(Generic[Outcome]):
    """Work items that are handed out. `begun`: the round in which they were; `alive_at`: the last sign of life, None before the start.

    `singly`: one of its work items made `work` or `record` fail for all, so each is done and recorded on its own, before the next.
    `study_id`: see `turn_to`. `is_split`: it hung in one study, and the others were taken from it. `handed_back`: see `hand_back`.
    `lock`: for these, between its thread and the one that may give it up.
    """

    work_items: list[WorkItem]
    begun: int
    singly: bool
    future: Future[list[WorkResult[Outcome]]]
    alive_at: float | None = None
    hangs: bool = False
    study_id: str | None = None
    is_split: bool = False
    is_done: bool = False
    handed_back: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class WorkerThreads(Generic[Outcome]):
    """Owned by one thread, which hands out work and takes the results. `wakeup` is set when a task is done."""

    def __init__(self, name: str, work: Callable[[list[WorkItem]], Outcome], wakeup: threading.Event) -> None:
        self._name = name
        self._work = work
        self._wakeup = wakeup
        self._running: list[WorkerTask[Outcome]] = []
        self._waiting: queue.SimpleQueue[WorkerTask[Outcome] | None] = queue.SimpleQueue()
        self._there = 0
        self.hanging = 0

    def hire(self, count: int) -> None:
        """Ensure that this many threads run, besides the hanging ones."""
        while self._there < count:
            self._hire_one()

    def dismiss(self) -> None:
        """Let each thread end when it is idle."""
        for _ in range(self._there):
            self._waiting.put(None)

    def hand_out(self, work_items: list[WorkItem], *, begun: int, singly: bool) -> None:
        """Give these work items to the next free thread."""
        task = WorkerTask(work_items, begun, singly, Future[list[WorkResult[Outcome]]]())
        task.future.add_done_callback(lambda _: self._wakeup.set())
        self._running.append(task)
        self._waiting.put(task)

    def at_work(self) -> int:
        """Return the number of tasks handed out, without the hanging ones."""
        return sum(not task.hangs for task in self._running)

    def in_hand(self) -> list[Entry]:
        """Return the entries of all work items handed out."""
        return [work_item.entry for task in self._running for work_item in task.work_items]

    def done(self) -> list[WorkerTask[Outcome]]:
        """Return the finished tasks; they count as handed out until `put_away`."""
        return [task for task in self._running if task.future.done()]

    def put_away(self, done: list[WorkerTask[Outcome]]) -> None:
        """Forget these tasks: their results were taken."""
        for task in done:
            self._running.remove(task)
            self.hanging -= task.hangs

    def give_up_on_hanging(self, after_s: float) -> list[tuple[list[WorkItem], list[WorkItem]]]:
        """Return the work items of each task that has now been without a sign of life for `after_s`; another worker takes its place.

        With each come the work items of the task's other studies, which are no longer its own.
        """
        now = time.monotonic()
        found = []
        for task in self._running:
            with task.lock:
                silent_s = 0.0 if task.alive_at is None or task.is_done else now - task.alive_at
                if task.hangs or silent_s < after_s or self.hanging == MOST_HANGING:
                    continue
                task.hangs = True
                others = [] if task.study_id is None else [each for each in task.work_items if each.entry.study_id != task.study_id]
                if others:
                    task.is_split = True
                    task.work_items = [each for each in task.work_items if each.entry.study_id == task.study_id]
            self.hanging += 1
            self._hire_one()
            found.append((task.work_items, others))
        return found

    def _hire_one(self) -> None:
        self._there += 1
        threading.Thread(target=self._run, name=f"{self._name}_{self._there}", daemon=True).start()

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            _hands.task = task
            beat()
            results = self._results(task)
            with task.lock:
                task.is_done = True
                if task.is_split:
                    results = []  # its one study is taken again, on its own
            task.future.set_result(results)
            if task.hangs:  # another thread has taken this one's place
                return

    def _results(self, task: WorkerTask[Outcome]) -> list[WorkResult[Outcome]]:
        """Do the work, and never raise: an exception becomes the result's error."""
        if not task.singly:
            work_items = task.work_items
            together = self._try(work_items)
            if together.error is None and task.handed_back:
                return [replace(together, work_items=work_items[: -task.handed_back])]
            if together.error is None or len(work_items) == 1 or is_of_the_ledger(together.error) or task.is_split:
                return [together]
        return [self._try(task.work_items[:1])]  # the others follow once this one is recorded: they build on it (one metadata.json)

    def _try(self, work_items: list[WorkItem]) -> WorkResult[Outcome]:
        try:
            return WorkResult(work_items, outcome=self._work(work_items))
        except BaseException as error:  # noqa: BLE001 - becomes the outcome of these work items; the pool's own thread records it
            return WorkResult(work_items, error=error)


def is_of_the_ledger(error: BaseException) -> bool:
    """Return whether the ledger itself is the cause, not one of its entries (which another program may have written: `ledger-newer`)."""
    return isinstance(error, LedgerBusy) or (isinstance(error, LedgerUnusable) and error.code != LEDGER_NEWER)
