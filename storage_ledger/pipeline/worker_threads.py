"""The threads of a worker pool, and what is in their hands.

A call into a volume that hangs (a network file system whose server is gone) comes back when it likes, and no thread can be
called away from it. So one that hangs is given up on, not waited for: another worker takes its place.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LEDGER_NEWER, LedgerBusy, LedgerUnusable
from storage_ledger.ledger.contract import WorkItem

Outcome = TypeVar("Outcome")
MOST_HANGING = 32  # threads that are given up on; beyond that the pool is as stuck as its volume

_hands = threading.local()


def beat() -> None:
    """A sign of life of the work that calls it: for what may take long, but goes on. Does nothing outside a worker's thread."""
    task: WorkerTask[object] | None = getattr(_hands, "task", None)
    if task is not None:
        task.alive_at = time.monotonic()


@dataclass(frozen=True, slots=True)
class WorkResult(Generic[Outcome]):
    """What came of these work items: an outcome, or what was raised instead."""

    work_items: list[WorkItem]
    outcome: Outcome | None = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class WorkerTask(Generic[Outcome]):
    """Work items in somebody's hands. `begun`: in which round it was handed out; `alive_at`: the last sign of life, None before it runs.

    `singly`: one of its work items broke `work` or `record` for all of them, so each is worked on and recorded by itself, before the next.
    """

    work_items: list[WorkItem]
    begun: int
    singly: bool
    future: Future[list[WorkResult[Outcome]]]
    alive_at: float | None = None
    hangs: bool = False


class WorkerThreads(Generic[Outcome]):
    """Owned by one thread, which hands out work and takes the results. `wakeup` rings when one is done."""

    def __init__(self, name: str, work: Callable[[list[WorkItem]], Outcome], wakeup: threading.Event) -> None:
        self._name = name
        self._work = work
        self._wakeup = wakeup
        self._running: list[WorkerTask[Outcome]] = []
        self._waiting: queue.SimpleQueue[WorkerTask[Outcome] | None] = queue.SimpleQueue()
        self._there = 0
        self.hanging = 0

    def hire(self, count: int) -> None:
        """See that this many are there, besides those that hang."""
        while self._there < count:
            self._hire_one()

    def dismiss(self) -> None:
        """Let each end when it has nothing in hand."""
        for _ in range(self._there):
            self._waiting.put(None)

    def hand_out(self, work_items: list[WorkItem], *, begun: int, singly: bool) -> None:
        """Give these work items to the next who is free."""
        task = WorkerTask(work_items, begun, singly, Future[list[WorkResult[Outcome]]]())
        task.future.add_done_callback(lambda _: self._wakeup.set())
        self._running.append(task)
        self._waiting.put(task)

    def at_work(self) -> int:
        """How many tasks are in hand, besides those that hang."""
        return sum(not task.hangs for task in self._running)

    def in_hand(self) -> list[Entry]:
        """The entries of all work items that are in hand."""
        return [work_item.entry for task in self._running for work_item in task.work_items]

    def done(self) -> list[WorkerTask[Outcome]]:
        """The tasks that have come back; they are in hand until `put_away`."""
        return [task for task in self._running if task.future.done()]

    def put_away(self, done: list[WorkerTask[Outcome]]) -> None:
        """Their results were taken."""
        for task in done:
            self._running.remove(task)
            self.hanging -= task.hangs

    def give_up_on_hanging(self, after_s: float) -> list[list[WorkItem]]:
        """The work items of each task that has newly been without a sign of life for `after_s`; another worker takes its place."""
        now = time.monotonic()
        found = []
        for task in self._running:
            silent_s = 0.0 if task.alive_at is None or task.future.done() else now - task.alive_at
            if task.hangs or silent_s < after_s or self.hanging == MOST_HANGING:
                continue
            task.hangs = True
            self.hanging += 1
            self._hire_one()
            found.append(task.work_items)
        return found

    def _hire_one(self) -> None:
        self._there += 1
        threading.Thread(target=self._run, name=f"{self._name}_{self._there}", daemon=True).start()

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            _hands.task = task
            beat()
            task.future.set_result(self._results(task))
            if task.hangs:  # another one has taken this one's place
                return

    def _results(self, task: WorkerTask[Outcome]) -> list[WorkResult[Outcome]]:
        """Never raises."""
        if not task.singly:
            together = self._try(task.work_items)
            if together.error is None or len(task.work_items) == 1 or is_of_the_ledger(together.error):
                return [together]
        return [self._try(task.work_items[:1])]  # the others when this one is recorded: they build on it (one metadata.json)

    def _try(self, work_items: list[WorkItem]) -> WorkResult[Outcome]:
        try:
            return WorkResult(work_items, outcome=self._work(work_items))
        except BaseException as error:  # noqa: BLE001 - becomes the outcome of these work items; the pool's own thread records it
            return WorkResult(work_items, error=error)


def is_of_the_ledger(error: BaseException) -> bool:
    """Whether the ledger itself is the reason, and not one of its entries (which another program may have written: `ledger-newer`)."""
    return isinstance(error, LedgerBusy) or (isinstance(error, LedgerUnusable) and error.code != LEDGER_NEWER)
