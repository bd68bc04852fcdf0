"""Whose request is next: each asker has a queue of its own, and the queues take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
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

    At most `waiting` jobs wait, and `waiting_of_one` of the same asker. Thread-safe.
    """

    def __init__(self, threads: int, *, waiting: int, waiting_of_one: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
        self._most = waiting
        self._most_of_one = waiting_of_one
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[_Job[Result]]] = OrderedDict()

    def submit(self, asker: str, run: Callable[[], Result]) -> Future[Result]:
        """Queue a job. Cancelling its future takes it out of the queue. Raises `TooMany`."""
        job = _Job(run)
        with self._lock:
            if self.waiting() >= self._most or len(self._queues.get(asker, ())) >= self._most_of_one:
                raise TooMany
            self._queues.setdefault(asker, deque()).append(job)
        job.future.add_done_callback(lambda future: self._remove(asker, job) if future.cancelled() else None)
        try:
            self._threads.submit(self._next)
        except RuntimeError:  # closed
            self._remove(asker, job)
            raise TooMany from None
        return job.future

    def waiting(self) -> int:
        """Return how many jobs wait."""
        return sum(map(len, list(self._queues.values())))

    def close(self) -> None:
        """Wait for the running jobs, and cancel the waiting ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while (job := self._taken()) is not None:
            job.future.cancel()

    def _next(self) -> None:
        job = self._taken()
        if job is None or not job.future.set_running_or_notify_cancel():
            return  # its asker has hung up
        try:
            result = job.run()
        except BaseException as error:  # noqa: BLE001 - the asker gets it
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    def _taken(self) -> _Job[Result] | None:
        """Take the first job of the asker whose turn it is, who is the last one then."""
        with self._lock:
            if not self._queues:
                return None
            asker, queue = self._queues.popitem(last=False)
            job = queue.popleft()
            if queue:
                self._queues[asker] = queue
            return job

    def _remove(self, asker: str, job: _Job[Result]) -> None:
        with self._lock:
            queue = self._queues.get(asker)
            if queue is not None and job in queue:
                queue.remove(job)
                if not queue:
                    del self._queues[asker]
