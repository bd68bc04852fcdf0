"""Wait for something in another thread or process, with a deadline instead of a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(predicate: Callable[[], T], timeout_s: float = 30.0, *, what: str | Callable[[], str] = "", every_s: float = 0.005) -> T:
    """Return the first truthy value of `predicate`; fail if there is none within `timeout_s`.

    It is called every `every_s`, or if it is slow after three times its duration (up to 0.2 s), to leave processor time for
    the thing waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if value := predicate():
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {timeout_s} s: {(what() if callable(what) else what) or predicate}")
        time.sleep(max(every_s, min(3 * (now - began), 0.2)))
