"""Looks at what may hang (a volume, the ledger's write lock) in a thread of its own, so that whoever asks gets an answer in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_S = 5.0
"""A result of the last few seconds is still worth telling while the next look takes its time."""


class Hangs(Exception):
    """The look has not come back in time, and no recent result is known. `after_s`: for how long it has been under way."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self.after_s = after_s


class Look(Generic[T]):
    """One thing to look at. At most one thread is in `look` at a time; one that hangs is waited for by nobody."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self.name = name
        self._look = look
        self._changed = threading.Condition()
        self._began_at: float | None = None  # of the look that is under way
        self._ended_at: float | None = None  # of the last one
        self._result: T | Exception | None = None

    def begin(self) -> None:
        """Start looking, unless a look is under way. Returns at once."""
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
        """The result of the look that is under way, or of the last one. Waits until `until` (monotonic) at most.

        Raises what the look raised, and `Hangs`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._began_at is None, max(0.0, until - time.monotonic()))
            now = time.monotonic()
            if self._began_at is not None and (self._ended_at is None or now - self._ended_at > FRESH_S):
                raise Hangs(now - self._began_at)
            result = self._result
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value] # a look that has ended has left one

    def _run(self) -> None:
        try:
            result: T | Exception = self._look()
        except Exception as error:  # noqa: BLE001 - raised again by whoever asks for the result
            result = error
        with self._changed:
            self._result, self._began_at, self._ended_at = result, None, time.monotonic()
            self._changed.notify_all()
