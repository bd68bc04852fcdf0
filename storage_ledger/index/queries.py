"""What others ask of index.db. They open it read-only, and can do without it: an index that does not fit answers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage_ledger.errors import LedgerError
from storage_ledger.index.schema import progress_of
from storage_ledger.ledger.contract import IndexSource, Ledger
from storage_ledger.system.sqlite import SqliteFile, is_regular

READ_WITHIN_S = 2.0
"""How long a reader waits for somebody who has locked the whole file."""


def standing(path: Path, ledger: Ledger) -> int | None:
    """The position at which the index stands; None where there is none that can be read and fits this ledger."""
    found = _ask(path, ledger, "SELECT 1", ())
    return None if found is None else found[0]


def studies_with_upload(path: Path, ledger: Ledger, state: str) -> tuple[int, list[str]] | None:
    """The studies with an upload in `state` (any but `archived`), at the position that comes with them. None: see `standing`."""
    sql = "SELECT DISTINCT study_id FROM uploads WHERE state = ? AND state <> 'archived'"  # as the index over it is written
    found = _ask(path, ledger, sql, (state,))
    return None if found is None else (found[0], [row[0] for row in found[1]])


def ask_files(path: Path, ledger: Ledger, sql: str, *values: object) -> list[Any] | None:
    """What the index says of files; None where there is none that can be read and fits this ledger."""
    found = _ask(path, ledger, sql, values)
    return None if found is None else list(found[1])


def damaged(path: Path, ledger: Ledger, limit: int) -> list[tuple[int, str]]:
    """Position and fault of the first entries that are not in the index, since they are not what their hashes say."""
    found = _ask(path, ledger, "SELECT position, code FROM damaged ORDER BY position LIMIT ?", (limit,))
    return [] if found is None else [(row[0], row[1]) for row in found[1]]


def archived_from(path: Path, ledger: Ledger, upload_path: str) -> list[str]:
    """The studies for which an upload of this path is archived, as far as the index knows; it reads every upload."""
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
        return None  # whoever writes it rebuilds it
    if any(isinstance(value, bytes) for row in rows for value in row):  # no column that is asked for here holds bytes
        return None
    return progress[0], rows


def is_of(progress: tuple[int, str, bytes], ledger: IndexSource) -> bool:
    """Whether an index with this progress is of this ledger, and not of one that went on otherwise after a restore."""
    position, ledger_id, leaf_hash = progress
    if ledger_id != ledger.ledger_id:
        return False
    entry = ledger.get(position)
    return not position or (entry is not None and entry.leaf_hash == leaf_hash)
