"""Limits a rate: bytes read or requests sent per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """At most `rate` units a second for all threads together; 0: no limit.

    Units unused in the last `burst_s` seconds may be used later; at the start, that many are available.
    """

    def __init__(
        self,
        rate: float,
        *,
        burst_s: float,
        wait: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._burst_s = burst_s
        self._wait = wait
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._free_at = monotonic() - burst_s

    def spend(self, units: float = 1) -> None:
        """Wait until the rate allows these units and all that were spent before."""
        if self._rate <= 0:
            return
        with self._lock:
            now = self._monotonic()
            self._free_at = max(self._free_at, now - self._burst_s) + units / self._rate
            wait_s = self._free_at - now
        if wait_s > 0:
            self._wait(wait_s)
