"""Signals that reach this process, whichever of its threads the kernel hands them to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from storage_ledger.system import cpu_affinity


@contextmanager
def signals_heard(numbers: Collection[signal.Signals], take: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `take`, in a thread of its own, for each of these signals that arrives during the block. Call it in the main thread.

    Python runs a handler in the main thread only, and if another thread got the signal, a main thread that waits for a lock is not
    woken. So the number is taken from the pipe that the C handler writes to.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    thread = threading.Thread(target=_listen, args=(reads, frozenset(numbers), take), name="signals", daemon=True)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    thread.start()
    for number in numbers:
        signal.signal(number, lambda *_: None)  # what is not handled is not written to the pipe
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)
        thread.join()
        os.close(reads)


def _listen(reads: int, numbers: frozenset[signal.Signals], take: Callable[[signal.Signals], None]) -> None:
    cpu_affinity.share_one()
    while got := os.read(reads, 64):
        for number in got:
            if number in numbers:
                take(signal.Signals(number))
