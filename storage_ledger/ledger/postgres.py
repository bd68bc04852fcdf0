"""The ledger in a PostgreSQL database. Needs the extra `postgres`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from typing_extensions import override

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Commit
from storage_ledger.ledger.dialect import POSTGRES
from storage_ledger.ledger.entry_rows import COLUMNS, as_entry
from storage_ledger.ledger.sql_ledger import MAX_POSITION, SqlLedger
from storage_ledger.ledger.transaction import Randomness, SqlTransaction
from storage_ledger.system.clock import Clock, utc_now
from storage_ledger.system.postgres import PostgresDatabase

PAGE = 1000
_COPY = f"COPY entries ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
_TYPES = ["int8", "text", "text", "int8", "text", "int8", "text", "int8", "text", "text", "bytea", "bytea"]
"""The column types of `entries`, as migrated."""
_LOCK = "SELECT value FROM meta WHERE name = 'ledger_id' FOR UPDATE"
"""The write lock. Its row is locked until the commit, so positions have no gaps."""


class PostgresLedger(SqlLedger):
    """The ledger in a PostgreSQL database, which must be migrated. For the other parameters see `SqlLedger`.

    Entries never change, so they are read page by page, each in its own statement: no long transaction keeps the server from cleaning
    up the work queue. With a `term`, it refuses to append (`ledger-taken-over`) once another `serve` has begun.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock = utc_now,
        randomness: Randomness = os.urandom,
        on_commit: Callable[[Commit], None] = lambda _: None,
        is_copy: bool = False,
        term: str | None = None,
    ) -> None:
        super().__init__(POSTGRES, clock=clock, randomness=randomness, on_commit=on_commit, is_copy=is_copy)
        self._term = term
        self._database = PostgresDatabase(url)
        rows = self._rows("SELECT value FROM meta WHERE name = 'ledger_id'")
        if not rows:
            raise LedgerUnusable("ledger-without-id", "the database has no ledger_id: `storage-ledger migrate` did not create it")
        self.ledger_id = rows[0][0]

    @override
    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        yield from map(as_entry, self._range(COLUMNS, after, up_to))

    @override
    def leaf_hashes(self, after: int, up_to: int) -> Iterator[bytes]:
        yield from (row[1] for row in self._range("position, leaf_hash", after, up_to))

    @override
    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        up_to: int = self._rows("SELECT coalesce(max(version), 0) FROM entries WHERE study_id = ?", study_id)[0][0]
        yield from _of_study(self._rows, study_id, after, up_to)

    @override
    def close(self) -> None:
        self._database.close()

    def _range(self, columns: str, after: int, up_to: int) -> Iterator[Any]:
        """Iterate over rows beyond position `after` up to `up_to`, and up to what is now the last. The first column is the position."""
        last: int = self._rows("SELECT coalesce(max(position), 0) FROM entries")[0][0]
        sql = f"SELECT {columns} FROM entries WHERE position > ? AND position <= ? ORDER BY position LIMIT {PAGE}"  # noqa: S608 - constants
        while rows := self._rows(sql, after, min(up_to, last)):
            yield from rows
            after = rows[-1][0]

    @override
    @contextmanager
    def _transaction(self, within_s: float) -> Iterator[Any]:
        with self._database.transaction(within_s=within_s) as connection:
            connection.execute(_LOCK)
            yield _Marked(connection)

    @override
    def _begun(self, connection: Any) -> SqlTransaction:
        return PostgresTransaction(connection, POSTGRES, self._clock, self._randomness)

    @override
    def _rows(self, sql: str, *values: object) -> Sequence[Any]:
        with self._database.connection() as connection:
            return connection.execute(_marked(sql), values).fetchall()

    @override
    def _one_by_one(self, condition: str, *values: object, newest_first: bool = False) -> Iterator[Entry]:
        beyond, order = ("position < ?", "DESC") if newest_first else ("position > ?", "ASC")
        reached = MAX_POSITION if newest_first else 0
        while entries := self._entries(f"WHERE {condition} AND {beyond} ORDER BY position {order} LIMIT {PAGE}", *values, reached):
            yield from entries
            reached = entries[-1].position


class PostgresTransaction(SqlTransaction):
    """A transaction of the PostgreSQL ledger."""

    @override
    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        return _of_study(lambda sql, *values: self._all(sql, values), study_id, after, 2**31)

    @override
    def _copy(self, entries: Sequence[Entry]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for entry in entries:
                copy.write_row(entry)


class _Marked:
    """A connection whose statements have `?` for each value."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] = ()) -> psycopg.Cursor[Any]:
        return self._connection.execute(_marked(sql), values)

    def cursor(self) -> psycopg.Cursor[Any]:
        return self._connection.cursor()


@cache
def _marked(sql: str) -> Any:
    return sql.replace("%", "%%").replace("?", "%s")


def _of_study(rows_of: Callable[..., Sequence[Any]], study_id: str, after: int, up_to: int) -> Iterator[Entry]:
    sql = f"SELECT {COLUMNS} FROM entries WHERE study_id = ? AND version > ? AND version <= ? ORDER BY version LIMIT {PAGE}"  # noqa: S608 - constants
    while rows := rows_of(sql, study_id, after, up_to):
        entries = list(map(as_entry, rows))
        yield from entries
        after = entries[-1].version or up_to
