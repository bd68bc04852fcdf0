"""How many bytes of answers are in memory: each takes its room as long as its reader is slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage_ledger.web.files.pictures import Unavailable


class Room:
    """Room for `size` bytes, for all requests together. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    def take(self, count: int, *, leave: int = 0) -> bool:
        """Take room for `count` bytes, if that leaves as much as `leave`; return whether it did. Who took it gives it back."""
        there = count <= self.left - leave
        self.left -= count if there else 0
        return there

    def give(self, count: int) -> None:
        """Give room back."""
        self.left += count

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Have room in the `with` block. Raises `Unavailable`."""
        if not self.take(count):
            raise Unavailable("pictures-busy")
        try:
            yield
        finally:
            self.give(count)
