"""Runs checks that may hang (a volume, the ledger's write lock) in a thread, so that a caller gets an answer in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_S = 5.0
"""A result is valid for this long while the next check is running."""


class Hangs(Exception):
    """The check did not return in time, and there is no recent result. `after_s`: how long it has been running."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self.after_s = after_s


class TimedCheck(Generic[T]):
    """One check. At most one thread runs `look` at a time; nothing waits for one that hangs."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self.name = name
        self._look = look
        self._changed = threading.Condition()
        self._began_at: float | None = None  # of the running check
        self._ended_at: float | None = None  # of the last check
        self._result: T | Exception | None = None

    def begin(self) -> None:
        """Start the check, unless it is running. Returns at once."""
        with self._changed:
            if self._began_at is not None:
                return
            self._began_at = time.monotonic()
        try:
            threading.Thread(target=self._run, name=f"look-{self.name}", daemon=True).start()
        except BaseException:
            with self._changed:
                self._began_at = None
            raise

    def result(self, until: float) -> T:
        """Return the result of the running check, or of the last one. Waits until `until` (monotonic) at most.

        Raises what the check raised, and `Hangs`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._began_at is None, max(0.0, until - time.monotonic()))
            now = time.monotonic()
            if self._began_at is not None and (self._ended_at is None or now - self._ended_at > FRESH_S):
                raise Hangs(now - self._began_at)
            result = self._result
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value] # a check that has ended left a result

    def _run(self) -> None:
        try:
            result: T | Exception = self._look()
        except Exception as error:  # noqa: BLE001 - `result` raises it in the caller's thread
            result = error
        with self._changed:
            self._result, self._began_at, self._ended_at = result, None, time.monotonic()
            self._changed.notify_all()
