"""The clock. Code that needs the time gets it as an argument, so that tests can pass another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time in UTC."""


def utc_now() -> datetime:
    """Return the time of the machine's clock."""
    return datetime.now(UTC)
