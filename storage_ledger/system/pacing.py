"""Reads no faster than it may."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_S = 1.0


class Pace:
    """`took` waits so long that no more than `rate` bytes a second are read; 0: it never waits.

    What was not read while somebody else had to be waited for is not made up for.
    """

    def __init__(self, rate: float, wait: Callable[[float], object], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._wait = wait
        self._monotonic = monotonic
        self._free_at = monotonic()

    def took(self, count: int) -> None:
        """So many bytes were read."""
        if self._rate <= 0:
            return
        now = self._monotonic()
        self._free_at = max(self._free_at, now - LONGEST_S) + count / self._rate
        if self._free_at > now:
            self._wait(self._free_at - now)
