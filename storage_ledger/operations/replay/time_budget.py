"""Limit how long a command waits for a service that does not answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from storage_ledger.domain.backoff import REPLAY_STATUS_AWAY
from storage_ledger.errors import Retryable

AWAY_S = 15.0  # long enough for a restart of the Status Service; a longer outage is reported


class RetryBudget:
    """A time budget of `lasts_s` from the first unanswered call, shared by all threads; an answer resets it.

    `say` is called once, when a thread first waits.
    """

    def __init__(
        self,
        lasts_s: float = AWAY_S,
        *,
        say: Callable[[Retryable], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._lasts_s = lasts_s
        self._say = say
        self._clock = clock
        self._pause = pause
        self._chance = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._lock = threading.Lock()
        self._since: float | None = None
        self._attempts = 0
        self._said = False
        self._over: Retryable | None = None

    def require(self) -> None:
        """Raise the error that exhausted the budget, if it is exhausted."""
        if self._over is not None:
            raise self._over

    def wait(self, error: Retryable) -> None:
        """Wait before the next attempt after an unanswered call. Raises `error` once the budget is exhausted."""
        with self._lock:
            now = self._clock()
            if self._since is None:
                self._since, self._attempts = now, 0
            self._attempts += 1
            left_s = self._since + self._lasts_s - now
            if left_s <= 0:
                self._over = self._over or error
                raise error
            wait_s = min(left_s, REPLAY_STATUS_AWAY.wait_s(self._attempts, chance=self._chance.random()))
            said, self._said = self._said, True
        if not said:
            self._say(error)
        self._pause(wait_s)

    def renew(self) -> None:
        """Reset the budget after a call that got an answer."""
        with self._lock:
            self._since = None
