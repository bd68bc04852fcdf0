"""Pauses in which nobody here reads a database, so that its writer can use its WAL from the beginning again.

A WAL grows as long as some reader began before its last entries (sqlite.org/wal.html, "checkpoint starvation"). Every statement ends
after a second or two, but many that overlap are one reader that never ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 64 << 20
"""SQLite cuts a WAL to this size when it starts it again (`journal_size_limit` in `system/sqlite.py`)."""

PAUSE_S = 1.0
"""How long a pause lasts if the WAL does not become shorter: its writer may have nothing to write."""


class ReadPauses:
    """For one file and all threads that read it. The WAL may have `most_bytes` before a pause, and grow by as much before the next."""

    def __init__(self, file: Path, *, most_bytes: int = MOST_BYTES, pause_s: float = PAUSE_S) -> None:
        self._wal = Path(f"{file}-wal")
        self._most_bytes = most_bytes
        self._pause_s = pause_s
        self._pause_at = most_bytes
        self._changed = threading.Condition()
        self._reading = 0
        self._pausing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in the `with` block, which begins after a pause if one is due."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pausing)
            if self._size() > self._pause_at:
                self._pause()
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def _pause(self) -> None:
        """Wait until those who read have ended, and then until the writer has started its WAL again."""
        self._pausing = True
        try:
            self._changed.wait_for(lambda: self._reading == 0)
            until = time.monotonic() + self._pause_s
            while self._size() > self._most_bytes and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(0.02, left))
            self._pause_at = max(self._size(), 0) + self._most_bytes if self._size() > self._most_bytes else self._most_bytes
        finally:
            self._pausing = False
            self._changed.notify_all()

    def _size(self) -> int:
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0
