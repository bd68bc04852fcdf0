"""Whose request is next: each asker has a queue of its own, and the queues take turns."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


class TooMany(Exception):
    """No more jobs are taken, of this asker or of all, or the queues are closed."""


@dataclass(eq=False, slots=True)
class _Job(Generic[Result]):
    run: Callable[[], Result]
    future: Future[Result] = field(default_factory=Future)


class FairQueue(Generic[Result]):
    """Runs jobs in `threads` threads, so that somebody with many slow jobs delays others by at most one job for each thread.

    At most `waiting` jobs wait, and `waiting_of_one` of the same asker, of whom at most `running_of_one` run. `name`: of the threads.
    Thread-safe.
    """

    def __init__(self, name: str, threads: int, *, waiting: int, waiting_of_one: int, running_of_one: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = waiting
        self._most_of_one = waiting_of_one
        self._running_of_one = threads if running_of_one is None else running_of_one
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[_Job[Result]]] = OrderedDict()
        self._running: Counter[str] = Counter()

    def submit(self, asker: str, run: Callable[[], Result], *, first: bool = False) -> Future[Result]:
        """Queue a job, with `first` before everybody's. Cancelling its future takes it out of the queue. Raises `TooMany`."""
        job = _Job(run)
        with self._lock:
            if self.waiting() >= self._most or len(self._queues.get(asker, ())) >= self._most_of_one:
                raise TooMany
            self._queues.setdefault(asker, deque()).append(job)
            if first:
                self._queues.move_to_end(asker, last=False)
        # A callback that held the job would make a cycle, and the result would stay until the garbage collector's next full run.
        job.future.add_done_callback(lambda future: self._remove(asker, future) if future.cancelled() else None)
        try:
            self._threads.submit(self._work)
        except RuntimeError:  # closed
            self._remove(asker, job.future)
            raise TooMany from None
        return job.future

    def waiting(self) -> int:
        """Return how many jobs wait."""
        return sum(map(len, list(self._queues.values())))

    def close(self) -> None:
        """Wait for the running jobs, and cancel the waiting ones."""
        with self._lock:
            left = [job for queue in self._queues.values() for job in queue]
            self._queues.clear()
        for job in left:
            job.future.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> None:
        """Run jobs until none may run. A job that may not, because of others of its asker, runs after one of these, in its thread."""
        while (taken := self._taken()) is not None:
            asker, job = taken
            try:
                _run(job)
            finally:
                with self._lock:
                    self._running[asker] -= 1

    def _taken(self) -> tuple[str, _Job[Result]] | None:
        """Take the first job of the asker whose turn it is, who is the last one then."""
        with self._lock:
            asker = next((each for each in self._queues if self._running[each] < self._running_of_one), None)
            if asker is None:
                return None
            queue = self._queues.pop(asker)
            job = queue.popleft()
            if queue:
                self._queues[asker] = queue
            self._running[asker] += 1
            return asker, job

    def _remove(self, asker: str, future: Future[Result]) -> None:
        with self._lock:
            queue = self._queues.get(asker, deque())
            for job in [each for each in queue if each.future is future]:
                queue.remove(job)
                if not queue:
                    del self._queues[asker]


def _run(job: _Job[Result]) -> None:
    if not job.future.set_running_or_notify_cancel():
        return  # its asker has hung up
    try:
        result = job.run()
    except BaseException as error:  # noqa: BLE001 - the asker gets it
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
