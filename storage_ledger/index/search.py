"""Full-text search: which words find a study. A DICOM study is found by the values of all its files, not only those in its row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from storage_ledger.domain.search_text import Described, search_text, search_text_with
from storage_ledger.index.schema import KEYS, SEARCHED

_COLUMNS = Described._fields
_ALL = " || char(31) || ".join(f"ifnull({name}, '')" for name in _COLUMNS)
"""SQL for all of them as one text, equal for two rows only if all values are equal."""

_TEXTS = ", ".join(SEARCHED)
_AT_ONCE = 1_000

CHOSEN = "IN (SELECT value FROM json_each(:chosen))"
"""SQL condition: one of the keys in the JSON list `chosen`. SQLite compiles it once, unlike a list of placeholders of changing length."""


def take_out_of_search(connection: Any, table: str, keys: Iterable[str]) -> None:
    """Remove these rows of `table` from the search; call it before they change. Reads no other row."""
    _for_rows(connection, table, f"INSERT INTO {table}_fts ({table}_fts, rowid, {_TEXTS}) SELECT 'delete', first_position, {_TEXTS}", keys)


def put_into_search(connection: Any, table: str, keys: Iterable[str]) -> None:
    """Add these rows to the search with their current words. Reads no other row."""
    _for_rows(connection, table, f"INSERT INTO {table}_fts (rowid, {_TEXTS}) SELECT first_position, {_TEXTS}", keys)


def _for_rows(connection: Any, table: str, insert: str, keys: Iterable[str]) -> None:
    if values := json_list(keys):
        connection.execute(f"{insert} FROM {table} WHERE {KEYS[table]} {CHOSEN}", {"chosen": values})


def shown_of(chosen: str) -> str:
    """Return SQL for the UID, `search_text` and the fields of `Described` of the DICOM studies that `chosen` (a condition) selects."""
    return f"SELECT study_instance_uid, search_text, {', '.join(_COLUMNS)} FROM dicom_studies WHERE study_instance_uid {chosen}"  # noqa: S608 - our own names


def add_search_text(
    connection: Any, uid: str, text: str | None, shown: Sequence[str | None], files: Sequence[Sequence[str | None]]
) -> None:
    """Add the words of new files to a study whose row otherwise stays the same. Reads no other file."""
    text = search_text_with(text, shown, list(zip(*files, strict=True)))
    connection.execute("UPDATE dicom_studies SET search_text = ? WHERE study_instance_uid = ?", (text, uid))


def write_search_text(connection: Any, chosen: str, values: Mapping[str, object] = MappingProxyType({})) -> None:
    """Fill `search_text` of the DICOM studies that `chosen` (a condition, with `values`) selects; their rows must exist."""
    rows = connection.execute(
        f"SELECT dicom_studies.rowid, study_instance_uid, least = most AND least = {_ALL}, {', '.join(_COLUMNS)} "  # noqa: S608 - our own names
        f"FROM (SELECT study_instance_uid, min({_ALL}) AS least, max({_ALL}) AS most FROM files "
        f"WHERE study_instance_uid {chosen} GROUP BY 1) JOIN dicom_studies USING (study_instance_uid)",
        dict(values),
    )
    while some := rows.fetchmany(_AT_ONCE):
        found = [
            (search_text(shown) if alike else search_text(shown, [_values(connection, uid, name) for name in _COLUMNS]), rowid)
            for rowid, uid, alike, *shown in some
        ]
        connection.executemany("UPDATE dicom_studies SET search_text = ? WHERE rowid = ?", found)


def _values(connection: Any, uid: str, column: str) -> list[str]:
    sql = f"SELECT DISTINCT {column} FROM files WHERE study_instance_uid = ? AND {column} IS NOT NULL ORDER BY 1"  # noqa: S608 - our own name
    return [row[0] for row in connection.execute(sql, (uid,))]


def json_list(keys: Iterable[str]) -> str | None:
    """Return the keys in order, as JSON; None if there are none."""
    ordered = sorted(keys)
    return json.dumps(ordered) if ordered else None
