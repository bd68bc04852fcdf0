"""Slows down password guessing: a delay that grows with each failure, per address and per user.

No user is locked out for ever. At an address where a user has logged in before, wrong guesses from elsewhere do not delay
that user. Memory is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage_ledger.system.addresses import network_of

FREE = 5
"""Consecutive failures without a delay, because people mistype."""

LONGEST_S = 60.0
FORGOTTEN_S = 900.0
REMEMBERED = 10_000
KNOWN_PLACES = 8


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


class Attempts:
    """Counts failures by address, by user, and by both together. `clock` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._known: dict[str, OrderedDict[str, None]] = {}

    def wait_s(self, address: str, user: str) -> float:
        """Return the seconds until the next attempt is accepted; 0 means now."""
        now = self._clock()
        pauses = [0.0]
        for key in self._keys(address, user):
            failures = self._failed.get(key)
            if failures is not None and now - failures.last < FORGOTTEN_S:
                pauses.append(failures.last + _pause_s(failures.count) - now)
        return max(pauses)

    def failed(self, address: str, user: str) -> None:
        """Count a failure: a wrong password, an unknown user, or a password not yet checked; `succeeded` takes it back."""
        now = self._clock()
        for key in self._keys(address, user):
            failures = self._failed.pop(key, None)
            count = failures.count if failures is not None and now - failures.last < FORGOTTEN_S else 0
            self._failed[key] = _Failures(count + 1, now)
        while len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)

    def succeeded(self, address: str, user: str) -> None:
        """Record a login: from now on this user is known at this address."""
        for key in (("both", f"{network_of(address)} {user}"), ("address", network_of(address))):
            self._failed.pop(key, None)
        places = self._known.setdefault(user, OrderedDict())
        others = self._failed.get(("user", user[:64]))
        if others is not None and network_of(address) not in places:  # `failed` has just counted it
            others.count -= 1
        places[network_of(address)] = None
        places.move_to_end(network_of(address))
        if len(places) > KNOWN_PLACES:
            places.popitem(last=False)

    def _keys(self, address: str, user: str) -> Iterator[tuple[str, str]]:
        place = network_of(address)
        yield "both", f"{place} {user[:64]}"
        if place in self._known.get(user, ()):
            return  # a user who has logged in from here is not delayed by the guesses of others
        yield "address", place
        yield "user", user[:64]


class OneAtATime:
    """One thread for CPU-bound work, so that password guessing takes at most one processor."""

    def __init__(self, name: str, *, waiting: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._most = waiting
        self._waiting = 0

    def full(self) -> bool:
        """Return whether the queue is full."""
        return self._waiting >= self._most

    async def ask(self, question: Callable[[], bool]) -> bool:
        """Run the function in the thread when its turn comes, and return its result."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread after the current call; cancel the waiting ones."""
        self._thread.shutdown(cancel_futures=True)


def _pause_s(failures: int) -> float:
    return 0.0 if failures < FREE else min(LONGEST_S, 2.0 ** min(failures - FREE, 10))
