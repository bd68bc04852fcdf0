"""What a witness must never forget: the newest checkpoint that it has cosigned for each log, and evidence against logs. SQLite.

Without these records, its key would cosign a second history. So the key's first use is recorded here, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_ledger.errors import CheckpointRefused, LedgerError
from storage_ledger.system.sqlite import SqliteFile

MOST_EVIDENCE = 100
"""Refused checkpoints kept for each log: the first ones. Only the log's own key can make one."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS witness (id INTEGER PRIMARY KEY CHECK (id = 1), vkey TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS newest (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS evidence (
        digest BLOB PRIMARY KEY, origin TEXT NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL, cosigned BLOB NOT NULL,
        refused BLOB NOT NULL)""",
)
_SET_NEWEST = (
    "INSERT INTO newest VALUES (?, ?, ?, ?) "
    "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note"
)
_ADD_EVIDENCE = "INSERT OR IGNORE INTO evidence SELECT ?, ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM evidence WHERE origin = ?) < ?"


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest checkpoint of a log. `note`: with the log's signatures and the witness's own."""

    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two notes of one log, and when (seconds since 1970) and why the second was refused."""

    origin: str
    at: int
    reason: str
    cosigned: bytes
    refused: bytes


class Records:
    """The records in one file, for any number of threads and processes. Raises `LedgerError` while the file cannot be used."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it. Raises `CheckpointRefused` (`witness-records-unusable`)."""
        self._file = SqliteFile(path, writable=True)
        try:
            with self._file.transaction() as connection:
                for statement in _SCHEMA:
                    connection.execute(statement)
        except LedgerError as error:
            raise CheckpointRefused("witness-records-unusable", f"{path} cannot be used ({error.code})") from error

    @property
    def vkey(self) -> str | None:
        """The key whose cosignatures are recorded; None for new records."""
        with self._file.connection() as connection:
            row = connection.execute("SELECT vkey FROM witness").fetchone()
        return None if row is None else str(row[0])

    def begin(self, vkey: str) -> None:
        """Record the key of new records, durably."""
        with self._file.transaction() as connection:
            connection.execute("INSERT INTO witness VALUES (1, ?)", (vkey,))

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Read and write while nobody else writes. What was written is durable once the `with` block has ended."""
        with self._file.transaction() as connection:
            yield Turn(connection)

    def newest(self, origin: str) -> Newest | None:
        """Return the newest checkpoint of a log, as committed."""
        with self._file.connection() as connection:
            return Turn(connection).newest(origin)

    def evidence(self) -> list[Evidence]:
        """Return all evidence, oldest first."""
        with self._file.connection() as connection:
            rows = connection.execute("SELECT origin, at, reason, cosigned, refused FROM evidence ORDER BY at, rowid")
            return [Evidence(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Turn:
    """One transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def newest(self, origin: str) -> Newest | None:
        """Return the newest checkpoint of a log, or None."""
        row = self._connection.execute("SELECT size, root, note FROM newest WHERE origin = ?", (origin,)).fetchone()
        return None if row is None else Newest(*row)

    def set_newest(self, origin: str, newest: Newest) -> None:
        """Record what will be cosigned."""
        self._connection.execute(_SET_NEWEST, (origin, newest.size, newest.root, newest.note))

    def add_evidence(self, found: Evidence) -> bool:
        """Keep it, unless it is there already, or the log has used up its room. Returns whether it is kept."""
        digest = hashlib.sha256(b"\0".join([found.origin.encode(), found.cosigned, found.refused])).digest()
        values = (digest, found.origin, found.at, found.reason, found.cosigned, found.refused)
        self._connection.execute(_ADD_EVIDENCE, (*values, found.origin, MOST_EVIDENCE))
        return self._connection.execute("SELECT 1 FROM evidence WHERE digest = ?", (digest,)).fetchone() is not None
