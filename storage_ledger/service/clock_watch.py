"""Detects that the machine's clock was set while the service runs: retries and grace periods depend on the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from storage_ledger.errors import LedgerBusy
from storage_ledger.system import logs

LOOK_EVERY_S = 1.0
SET_BY_S = 5.0
"""A smaller difference is a routine time correction, or the delay between two readings on a busy machine."""


class ClockWatch:
    """Compares the clock with the monotonic clock. Calls `on_set` when the clock was set, and again as long as that raises `LedgerBusy`.

    A machine that was suspended looks like one whose clock was set forward: the monotonic clock stops meanwhile.
    """

    def __init__(
        self, clock: Callable[[], datetime], *, on_set: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._on_set = on_set
        self._monotonic = monotonic
        self._looking = threading.Lock()
        self._steady_since = clock()
        self._difference_s = self._now_s()

    def run(self, stop: threading.Event) -> None:
        """Compare every second until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Compare once, from any thread. On return, `on_set` has been called if the clock was set before."""
        with self._looking:
            difference_s = self._now_s()
            set_by_s = difference_s - self._difference_s
            if abs(set_by_s) >= SET_BY_S:
                self._steady_since = self._clock()
                try:
                    self._on_set()
                except LedgerBusy as error:
                    logs.get().warning("ledger.busy", thread="clock", code=error.code)
                    return
                logs.get().warning("clock.set", seconds=round(set_by_s, 1))
            self._difference_s = difference_s

    def steady_since(self) -> datetime:
        """Return when the clock was last set, or when this watch began. Call it from any thread."""
        self.look()
        return self._steady_since

    def _now_s(self) -> float:
        return self._clock().timestamp() - self._monotonic()
