"""One value of a row as a file: `/ledger/entries/1.blob?_blob_column=payload`. Datasette's own fails unless the value is binary."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from datasette.blob_renderer import render_blob  # type: ignore[import-untyped] # it ships no types
from datasette.utils.asgi import BadRequest  # type: ignore[import-untyped]


async def blob(datasette: Any, database: str, rows: Sequence[Any], columns: Sequence[str], request: Any, table: str, view_name: str) -> Any:
    """Return the value, text and numbers in UTF-8. Raises `BadRequest`, also if the row is not there any more."""
    column = request.args.get("_blob_column")
    if column not in columns:
        raise BadRequest("_blob_column must be a column of this table.")
    values = [{column: _bytes(row[column])} for row in rows]
    wanted = request.args.get("_blob_hash")
    if not any(wanted is None or hashlib.sha256(each[column]).hexdigest() == wanted for each in values):
        raise BadRequest("No such value: it may have changed.")
    return await render_blob(datasette, database, values, columns, request, table, view_name)


def _bytes(value: Any) -> bytes:
    match value:
        case None:
            return b""
        case bytes():
            return value
        case _:
            return str(value).encode()
