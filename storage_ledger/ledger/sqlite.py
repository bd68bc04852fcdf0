"""The ledger in one SQLite file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from pathlib import Path
from typing import Any

from typing_extensions import override

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.share import belongs
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Commit
from storage_ledger.ledger.dialect import SQLITE
from storage_ledger.ledger.entry_rows import COLUMNS, LEAF_HASHES, SCAN, as_entry, of_study, one_by_one, scanned
from storage_ledger.ledger.sql_ledger import SqlLedger
from storage_ledger.ledger.transaction import Randomness, SqlTransaction
from storage_ledger.system.clock import Clock, utc_now
from storage_ledger.system.sqlite import SqliteFile, fetched

NOT_THERE = "does not exist: check LEDGER_PATH and its volume. `storage-ledger migrate` creates a new, empty ledger"
_FUNCTIONS = {"belongs_to_share": belongs}


class SqliteLedger(SqlLedger):
    """The ledger in one SQLite file, which must be migrated (`ledger.migrate`). For the other parameters see `SqlLedger`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = utc_now,
        randomness: Randomness = os.urandom,
        on_commit: Callable[[Commit], None] = lambda _: None,
        is_copy: bool = False,
    ) -> None:
        super().__init__(SQLITE, clock=clock, randomness=randomness, on_commit=on_commit, is_copy=is_copy)
        self.path = path
        if not path.exists():
            raise LedgerUnusable("ledger-missing", f"{path} {NOT_THERE}")
        self._writer = SqliteFile(path, writable=True)
        self._reader = SqliteFile(path, writable=False, functions=_FUNCTIONS)
        rows = self._rows("SELECT value FROM meta WHERE name = 'ledger_id'")
        if not rows:
            raise LedgerUnusable("ledger-without-id", f"{path} has no ledger_id: `storage-ledger migrate` did not create it")
        self.ledger_id = rows[0][0]

    @override
    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        # Entries are created lazily: a list would leave the CPU cache before it is used.
        with self._reader.connection() as connection:
            yield from scanned(connection, SCAN, after, up_to, as_entry)

    @override
    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        with self._reader.connection() as connection:
            yield from of_study(connection, study_id, after)

    @override
    def leaf_hashes(self, after: int, up_to: int) -> Iterator[bytes]:
        with self._reader.connection() as connection:
            yield from map(itemgetter(0), connection.execute(LEAF_HASHES, (after, up_to)))

    @override
    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    @override
    def _transaction(self, within_s: float) -> AbstractContextManager[Any]:
        return self._writer.transaction(within_s=within_s)

    @override
    def _begun(self, connection: Any) -> SqlTransaction:
        return SqliteTransaction(connection, SQLITE, self._clock, self._randomness)

    @override
    def _rows(self, sql: str, *values: object) -> Sequence[Any]:
        with self._reader.connection() as connection:
            return fetched(connection, sql, values)

    @override
    def _one_by_one(self, condition: str, *values: object, newest_first: bool = False) -> Iterator[Entry]:
        sql = f"SELECT {COLUMNS} FROM entries WHERE {condition} ORDER BY position{' DESC' if newest_first else ''}"  # noqa: S608 - constants
        with self._reader.connection() as connection:
            yield from one_by_one(connection, sql, values, as_entry)


class SqliteTransaction(SqlTransaction):
    """A transaction of the SQLite ledger."""

    @override
    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        return of_study(self._connection, study_id, after)

    @override
    def _all(self, sql: str, values: Sequence[object]) -> Sequence[Any]:
        return fetched(self._connection, sql, values)
