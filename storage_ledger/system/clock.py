"""The clock. It is passed to what needs the time; tests pass another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time in UTC."""


def utc_now() -> datetime:
    """Return the time of the machine's clock."""
    return datetime.now(UTC)
