"""Restarts a failed job of the service, so that one bug, or one unexpected value in the ledger, never stops the others.

Only `LedgerUnusable` ends the process: the service must not run without its ledger.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from storage_ledger.domain.backoff import Backoff
from storage_ledger.errors import LedgerUnusable, StorageLedgerError
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

FIRST_S = 0.5
MOST_S = 30.0
CALM_S = 60.0
"""A job counts as recovered when it has run for this long since its last failure."""
TRIES_ONCE_STOPPED = 3
"""How many times a job may fail after the stop before it is left unfinished."""


@dataclass(slots=True)
class _Failing:
    """`times`: failures in a row, less than `CALM_S` apart. `last_at`: monotonic time of the last one."""

    times: int
    last_at: float


class Supervisor:
    """Runs jobs in the calling threads. Calls `on_unusable` once, when a job finds the ledger unusable.

    A job must be able to run again after it has raised: it keeps its unfinished work, or re-reads it.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        on_unusable: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        first_s: float = FIRST_S,
    ) -> None:
        self._metrics = metrics
        self._on_unusable = on_unusable
        self._monotonic = monotonic
        self._first_s = first_s
        self._lock = threading.Lock()
        self._failing: dict[str, _Failing] = {}
        self.exit_code = 0
        """2 after the ledger was found unusable or a job could not finish after the stop; otherwise 0."""
        self.unusable: tuple[str, str] | None = None
        """Code and detail of the error that found the ledger unusable."""

    def run(self, name: str, job: Callable[[], None], stop: threading.Event, *, at_end: Callable[[], None] = lambda: None) -> None:
        """Run `job` until it returns after `stop` was set. If it raises or returns earlier, restart it after an increasing delay.

        `at_end` is called once, when the job has ended for good. After `LedgerUnusable` the job is not restarted.
        """
        tries = TRIES_ONCE_STOPPED
        try:
            while True:
                try:
                    job()
                    if stop.is_set():
                        return
                    error: BaseException | None = None
                except LedgerUnusable as unusable:
                    logs.get().critical(
                        "thread.died", thread=name, code=unusable.code, error_type=type(unusable).__name__, frames_at=logs.where(unusable)
                    )
                    self._end(unusable)
                    return
                except BaseException as caught:  # noqa: BLE001 - logged, counted, shown in /readyz, and the job is restarted
                    error = caught
                tries -= stop.is_set()
                if not tries:
                    self._log(name, error, None)
                    self.exit_code = 2
                    return
                pause_s = self._failed(name)
                self._log(name, error, pause_s)
                del error  # its frames would keep the job's objects in memory
                stop.wait(pause_s)
        finally:
            at_end()

    def failing(self) -> list[str]:
        """Return the names of the jobs that failed within the last minute."""
        with self._lock:
            now = self._monotonic()
            return sorted(name for name, failing in self._failing.items() if now - failing.last_at < CALM_S)

    def _failed(self, name: str) -> float:
        """Count the failure, and return the seconds until the restart."""
        self._metrics.thread_failures.labels(name).inc()
        with self._lock:
            now = self._monotonic()
            failing = self._failing.get(name)
            times = failing.times + 1 if failing is not None and now - failing.last_at < CALM_S else 1
            self._failing[name] = _Failing(times, now)
        return Backoff(self._first_s, MOST_S).wait_s(times, chance=random.random())  # noqa: S311 - spreads retries

    def _end(self, error: LedgerUnusable) -> None:
        with self._lock:
            first, self.exit_code = self.unusable is None, 2
            self.unusable = self.unusable or (error.code, error.detail)
        if first:
            self._on_unusable()

    def _log(self, name: str, error: BaseException | None, pause_s: float | None) -> None:
        due = {} if pause_s is None else {"due_in_s": round(pause_s, 1)}
        event = "thread.failed" if pause_s is not None else "thread.gave-up"
        if error is None:
            logs.get().error(event, thread=name, code="internal-error", reason="ended by itself", **due)
            return
        code = error.code if isinstance(error, StorageLedgerError) else "internal-error"
        logs.get().error(event, thread=name, code=code, error_type=type(error).__name__, frames_at=logs.where(error), **due)
