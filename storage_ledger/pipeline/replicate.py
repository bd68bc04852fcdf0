"""Keeps the mirror up to date while the service runs. One fsync covers a whole batch, and other steps wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from storage_ledger.domain.backoff import MIRROR_PAUSES
from storage_ledger.domain.ids import later, rfc3339
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.follower import LOOK_EVERY_S, CaughtUp, Round, RoundFailed, follow_until_stopped
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.wakeups import Signal, Sleeper, Wakeups
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics


class Replicator:
    """Follows the ledger with the mirror."""

    def __init__(
        self,
        ledger: Ledger,
        mirror: Mirror,
        *,
        outages: Outages,
        metrics: Metrics,
        clock: Callable[[], datetime],
        wakeups: Wakeups,
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._outages = outages
        self._metrics = metrics
        self._clock = clock
        self._wakeups = wakeups
        self._wakeup = wakeups.of(Sleeper.REPLICATE)
        self._told = mirror.position
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set and everything is mirrored. Raises `LedgerUnusable` if the mirror no longer belongs to this ledger."""
        follow_until_stopped(self.follow, self._wakeup, stop)

    def follow(self) -> Round:
        """Bring the mirror up to date. A failure to write is logged and recorded as an outage of `mirror`."""
        error = self._try()
        position = self._mirror.position  # perhaps moved by another thread
        moved = position > self._told
        if moved:
            self._told = position
            self._metrics.mirror_position.set(position)
            self._wakeups.ring(Signal.MIRRORED)
        if error is None:
            if works_again := self._failures > 0 or self._outages.goes_on("mirror"):
                self._failures = 0
                self._record(None, 0.0)
            return CaughtUp(moved=moved or works_again)
        self._failures += 1
        wait_s = LOOK_EVERY_S + MIRROR_PAUSES.wait_s(self._failures, chance=0.5)
        if isinstance(error, Retryable):
            self._record(error, wait_s)
        return RoundFailed(wait_s)

    def _try(self) -> Retryable | LedgerBusy | None:
        try:
            self._mirror.catch_up()
        except (Retryable, LedgerBusy) as error:
            logs.get().error("mirror.failed", code=error.code, errno=error.errno, attempt=self._failures + 1)
            return error
        return None

    def _record(self, error: Retryable | None, wait_s: float) -> None:
        try:
            with self._ledger.write() as tx:
                if error is None:
                    self._outages.end(tx, "mirror")
                else:
                    retry_at = later(rfc3339(self._clock()), wait_s)
                    self._outages.begin(tx, "mirror", error, attempt=self._failures, retry_at=retry_at)
        except LedgerBusy as busy:  # then it is recorded with the next failure; an unrecorded end waits for the next one
            logs.get().warning("ledger.busy", thread="mirror", code=busy.code)
