"""Chooses the processors for the service's threads, on Linux; elsewhere it does nothing.

Python runs one thread at a time. On several processors, a thread that returns from a system call often wakes up on another one, only
to wait for the interpreter's lock: 250 switches for each study instead of 30, and half of all CPU time
(docs/adr/0003). So the threads of a process share one processor, except while they work without that lock for long. The main thread, which
only waits, keeps all processors of the process, so that others can read them there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_CPU_V1 = Path("/sys/fs/cgroup/cpu")

LARGE_BYTES = 4 << 20
"""Reading and hashing a file of this size takes longer than moving to another processor."""

_number = random.randrange(1 << 16)  # noqa: S311 - not by process id, which is the same in every container
_KNOWN = hasattr(os, "sched_setaffinity")


def number() -> int:
    """Return the number of the processor that the threads share, counted modulo the usable ones."""
    return _number


def choose(number: int) -> None:
    """Let the threads share this processor: several processes take numbers in a row. Call it before any thread starts."""
    global _number  # noqa: PLW0603 - it is one for the process
    _number = number


def usable() -> int:
    """Return the number of processors that this process may use: by its affinity, and by the quota of its control group."""
    given = len(os.sched_getaffinity(0)) if _KNOWN else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # control groups v2: "max 100000", or microseconds in each period
        quota, period = _CPU_MAX.read_text(encoding="ascii").split()
        given = min(given, max(1, round(int(quota) / int(period))))
    with suppress(OSError, ValueError):  # control groups v1: -1 for no limit
        quota_us, period_us = (int((_CPU_V1 / name).read_text(encoding="ascii")) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota_us > 0:
            given = min(given, max(1, round(quota_us / period_us)))
    return given


def share_one() -> None:
    """Move the calling thread, and those that it starts, to the processor that all threads of this process share."""
    if _KNOWN:
        given = sorted(os.sched_getaffinity(os.getpid()))
        _take({given[_number % len(given)]})


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
