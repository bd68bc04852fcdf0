"""The interface through which a long operation reports its progress to the command that displays it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class ShowProgress(Protocol):
    """A function that displays how much is done so far."""

    def __call__(self, done: int, size: int | None = None) -> None:
        """Display `done` items with `size` bytes; both are totals since the start."""
        ...


StartProgress = Callable[[str, int | None, str], AbstractContextManager[ShowProgress]]
"""Takes a title, the number of items (None: unknown) and their name in the plural; displays progress during the `with` block."""
