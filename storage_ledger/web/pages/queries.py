"""Questions to one of the two databases, as plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

QueryRow = dict[str, Any]


def ask(connection: Any, sql: str, values: Sequence[Any] | QueryRow = ()) -> list[QueryRow]:
    """All rows that come of it, by column."""
    found = connection.execute(sql, values)
    columns = [each[0] for each in found.description]
    return [dict(zip(columns, row, strict=True)) for row in found]


def ask_one(connection: Any, sql: str, values: Sequence[Any] | QueryRow = ()) -> QueryRow | None:
    """The first row, None when there is none."""
    return next(iter(ask(connection, sql, values)), None)


def marks(values: Sequence[Any]) -> str:
    """As many question marks."""
    return ", ".join("?" * len(values))
