"""How a long command reports its progress, whoever displays it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class ShowProgress(Protocol):
    """Called with how many items are done so far, and how many bytes they had."""

    def __call__(self, done: int, size: int | None = None) -> None:
        """See above."""
        ...


StartProgress = Callable[[str, int | None, str], AbstractContextManager[ShowProgress]]
"""Title, number of items (None: unknown) and their name in the plural: displays progress while the `with` block runs."""
