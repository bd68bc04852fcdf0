"""The clock. Whatever needs the time gets it passed in; tests pass another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present moment in UTC."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)
