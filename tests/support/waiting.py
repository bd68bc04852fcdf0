"""Waiting for something that happens in another thread or process, with a deadline instead of a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(predicate: Callable[[], T], timeout_s: float = 30.0, *, what: str | Callable[[], str] = "", every_s: float = 0.005) -> T:
    """Return the first truthy value of `predicate`; fail when there is none within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {(what() if callable(what) else what) or predicate}")
        time.sleep(every_s)
    return value
