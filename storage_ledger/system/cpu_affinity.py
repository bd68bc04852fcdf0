"""Chooses the processors for the service's threads, on Linux; elsewhere it does nothing.

Python runs one thread at a time. On several processors, a thread that returns from a system call often wakes up on another one, only
to wait for the interpreter's lock: 250 switches for each study instead of 30, and half of all CPU time
(docs/adr/0003). So the threads share one processor, except while they work without that lock for long. The main thread, which
only waits, keeps all processors of the process, so that others can read them there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LARGE_BYTES = 4 << 20
"""Reading and hashing a file of this size takes longer than moving to another processor."""

_CHOICE = random.random()  # noqa: S311 - not by process id, which is the same in every container
_KNOWN = hasattr(os, "sched_setaffinity")


def share_one() -> None:
    """Move the calling thread, and those that it starts, to the processor that all threads of this process share."""
    if _KNOWN:
        given = sorted(os.sched_getaffinity(os.getpid()))
        _take({given[int(_CHOICE * len(given))]})


@contextmanager
def any_of_them(*, when: bool = True) -> Iterator[None]:
    """Let the calling thread, and those that it starts, use any processor of the process until the `with` block ends."""
    if not (when and _KNOWN):
        yield
        return
    before, given = os.sched_getaffinity(0), os.sched_getaffinity(os.getpid())
    if before == given:
        yield
        return
    _take(given)
    try:
        yield
    finally:
        _take(before)


def _take(processors: set[int]) -> None:
    with suppress(OSError):  # not allowed, or the processor was just removed: continue unchanged
        os.sched_setaffinity(0, processors)
