"""Query helpers: rows of either database as plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

QueryRow = dict[str, Any]


def ask(connection: Any, sql: str, values: Sequence[Any] | QueryRow = ()) -> list[QueryRow]:
    """Return all rows, by column."""
    found = connection.execute(sql, values)
    columns = [each[0] for each in found.description]
    return [dict(zip(columns, row, strict=True)) for row in found]


def ask_one(connection: Any, sql: str, values: Sequence[Any] | QueryRow = ()) -> QueryRow | None:
    """Return the first row, or None."""
    return next(iter(ask(connection, sql, values)), None)


def marks(values: Sequence[Any]) -> str:
    """Return one question mark per value, for IN (…)."""
    return ", ".join("?" * len(values))
