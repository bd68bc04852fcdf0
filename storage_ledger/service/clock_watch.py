"""Notices that the machine's clock was set while the service runs: what waits by the clock would wait, or give up, at the wrong time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from storage_ledger.errors import LedgerBusy
from storage_ledger.system import logs

LOOK_EVERY_S = 1.0
SET_BY_S = 5.0
"""Less is what time servers do all day, and what a machine under load loses between two readings."""


class ClockWatch:
    """Compares the clock with one that nobody can set. `on_set` is called when they have parted, and again while it raises `LedgerBusy`.

    A machine that was asleep looks like a clock that was set forward: the other one stands still meanwhile.
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
        """Look every second, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Once; from any thread. On return `on_set` has been called if the clock was set before."""
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
        """When it was last set, as far as can be told now; when this watch began where it never was. From any thread."""
        self.look()
        return self._steady_since

    def _now_s(self) -> float:
        return self._clock().timestamp() - self._monotonic()
