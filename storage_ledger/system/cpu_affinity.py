"""Which processors the threads of the service run on; Linux only, elsewhere nothing happens.

Python lets one thread run at a time. On several processors each of the many that come back from a system call wakes up on
another one, only to wait there for the interpreter's lock: 250 switches a study instead of 30, and half of all CPU time
(docs/adr/0003). So the threads share one processor, but for what works without that lock for long. The main thread, which only
waits, keeps all that were given to the process: there they are read from.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LARGE_BYTES = 4 << 20
"""Of a file: reading and hashing so many takes longer than a move to another processor is worth."""

_CHOICE = random.random()  # noqa: S311 - not by the process's number: that is the same in every container
_KNOWN = hasattr(os, "sched_setaffinity")


def share_one() -> None:
    """The calling thread, and those that it starts, run on the one processor that all threads of this process share."""
    if _KNOWN:
        given = sorted(os.sched_getaffinity(os.getpid()))
        _take({given[int(_CHOICE * len(given))]})


@contextmanager
def any_of_them(*, when: bool = True) -> Iterator[None]:
    """Meanwhile the calling thread, and what it starts, runs on any processor that was given to the process."""
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
    with suppress(OSError):  # not allowed, or taken from the machine just now: it goes on as it is
        os.sched_setaffinity(0, processors)
