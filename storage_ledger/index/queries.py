"""Queries on index.db for the rest of the program. They only read, and return nothing if the index does not match the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage_ledger.errors import LedgerError
from storage_ledger.index.schema import progress_of
from storage_ledger.ledger.contract import IndexSource, Ledger
from storage_ledger.system.sqlite import SqliteFile, is_regular

READ_WITHIN_S = 2.0
"""How long a reader waits while another process has locked the whole file."""


def followed_position(path: Path, ledger: Ledger) -> int | None:
    """Return the position up to which the index follows this ledger; None without a readable, matching index."""
    found = _ask(path, ledger, "SELECT 1", ())
    return None if found is None else found[0]


def studies_with_upload(path: Path, ledger: Ledger, state: str) -> tuple[int, list[str]] | None:
    """Return the index's position, and the studies with an upload in `state` (any but `archived`). None as in `followed_position`."""
    sql = "SELECT DISTINCT study_id FROM uploads WHERE state = ? AND state <> 'archived'"  # phrased to match the partial index
    found = _ask(path, ledger, sql, (state,))
    return None if found is None else (found[0], [row[0] for row in found[1]])


def ask_files(path: Path, ledger: Ledger, sql: str, *values: object) -> list[Any] | None:
    """Return the rows that `sql` selects; None as in `followed_position`."""
    found = _ask(path, ledger, sql, values)
    return None if found is None else list(found[1])


def damaged(path: Path, ledger: Ledger, limit: int) -> list[tuple[int, str]]:
    """Return position and fault of the first entries that were left out of the index because they are damaged."""
    found = _ask(path, ledger, "SELECT position, code FROM damaged ORDER BY position LIMIT ?", (limit,))
    return [] if found is None else [(row[0], row[1]) for row in found[1]]


def archived_from(path: Path, ledger: Ledger, upload_path: str) -> list[str]:
    """Return up to 10 studies for which an upload of this path is archived, according to the index. Scans all uploads."""
    found = _ask(path, ledger, "SELECT study_id FROM uploads WHERE upload_path = ? AND state = 'archived' LIMIT 10", (upload_path,))
    return [] if found is None else [row[0] for row in found[1]]


def _ask(path: Path, ledger: Ledger, sql: str, values: tuple[object, ...]) -> tuple[int, Sequence[Any]] | None:
    if not is_regular(path):
        return None
    try:
        with SqliteFile(path, writable=False, keep=0).transaction(within_s=READ_WITHIN_S) as connection:
            progress = progress_of(connection)
            if progress is None or not is_of(progress, ledger):
                return None
            rows = connection.execute(sql, values).fetchall()
    except (LedgerError, OSError):
        return None  # the process that writes the index repairs it
    if any(isinstance(value, bytes) for row in rows for value in row):  # not from us: no column queried here holds bytes
        return None
    return progress[0], rows


def is_of(progress: tuple[int, str, bytes], ledger: IndexSource) -> bool:
    """Return whether an index with this progress follows this ledger, not another one or one that diverged after a restore."""
    position, ledger_id, leaf_hash = progress
    if ledger_id != ledger.ledger_id:
        return False
    entry = ledger.get(position)
    return not position or (entry is not None and entry.leaf_hash == leaf_hash)
