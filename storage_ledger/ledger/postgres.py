"""The ledger in a PostgreSQL database. Needs the extra `postgres`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any

import psycopg
from typing_extensions import override

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.redeliveries import DescribedUpload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Commit
from storage_ledger.ledger.dialect import POSTGRES, Dialect
from storage_ledger.ledger.entry_rows import COLUMNS, as_entry
from storage_ledger.ledger.sql_ledger import MAX_POSITION, SqlLedger
from storage_ledger.ledger.transaction import LAST, MARKS, MOVED_TO, TERM, Randomness, SqlTransaction
from storage_ledger.system.clock import Clock, utc_now
from storage_ledger.system.postgres import PostgresDatabase

PAGE = 1000
_VERSIONS = (
    "SELECT s.study_id, coalesce((SELECT max(version) FROM entries e WHERE e.study_id = s.study_id), 0) FROM unnest(?::text[]) s (study_id)"
)
_STILL = "SELECT position FROM pending WHERE stage = 'place' AND position = ANY(?)"
_WAITING = (
    f"SELECT {POSTGRES.upload_path} FROM entries WHERE {POSTGRES.upload_path} = ANY(?) "  # noqa: S608 - constants
    "AND EXISTS (SELECT 1 FROM pending p WHERE p.position = entries.position AND p.stage = 'place' OFFSET 0)"
)
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
        try:
            self.ledger_id = self._id()
        except BaseException:
            self._database.close()
            raise

    def _id(self) -> str:
        rows = self._rows("SELECT value FROM meta WHERE name = 'ledger_id'")
        if not rows:
            raise LedgerUnusable("ledger-without-id", "the database has no ledger_id: `storage-ledger migrate` did not create it")
        return str(rows[0][0])

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
        with self._database.transaction(within_s=within_s, pipelined=True) as connection:
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
    """A transaction of the PostgreSQL ledger, on a connection in pipeline mode: a write is sent and not waited for, only a read is.

    What `expect` announces is read at once: the last version of each study, what is still to be placed, and how much waits for each
    upload. Nobody else changes that: this transaction has the lock.
    """

    def __init__(self, connection: Any, dialect: Dialect, clock: Clock, randomness: Randomness) -> None:
        self._versions: dict[str, int] = {}
        self._to_place: set[int] = set()
        self._repeated: Counter[str] = Counter()
        super().__init__(connection, dialect, clock, randomness)

    @override
    def _first_read(self) -> Entry | None:
        locked = self._sql(_LOCK)
        marks = self._sql(MARKS, (MOVED_TO, TERM))
        last = self._sql(f"SELECT {COLUMNS} FROM entries {LAST}")  # noqa: S608 - constants
        locked.fetchone()
        self.marks = dict(marks.fetchall())
        row = last.fetchone()
        return None if row is None else as_entry(row)

    @override
    def expect(self, studies: Collection[str], placed: Mapping[int, str] = MappingProxyType({})) -> None:
        versions = self._sql(_VERSIONS, (list(studies),))
        if placed:
            uploads = list(set(placed.values()))
            waiting, still = self._sql(_WAITING, (uploads,)), self._sql(_STILL, (list(placed),))
            self._repeated = Counter(row[0] for row in waiting.fetchall())
            self._to_place = {row[0] for row in still.fetchall()}
        self._versions = dict(versions.fetchall())

    @override
    def _last_version(self, study_id: str) -> int:
        if study_id not in self._versions:
            self._versions[study_id] = super()._last_version(study_id)
        return self._versions[study_id]

    @override
    def _insert(self, entry: Entry) -> None:
        super()._insert(entry)
        if entry.study_id is not None and entry.version is not None:
            self._versions[entry.study_id] = entry.version
        if entry.kind == Kind.DESCRIBED:
            self._repeated.clear()  # it may be one more for an upload that was counted

    @override
    def add_work_item(self, position: int, stage: Stage) -> None:
        super().add_work_item(position, stage)
        self._repeated.clear()

    @override
    def is_pending(self, position: int, stage: Stage) -> bool:
        return (stage is Stage.PLACE and position in self._to_place) or super().is_pending(position, stage)

    @override
    def drop(self, position: int, stage: Stage) -> None:
        super().drop(position, stage)
        if stage is Stage.PLACE:
            self._to_place.discard(position)

    @override
    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        if described.position in self._to_place and self._repeated[described.upload_path] == 1:
            return []  # it alone waits for this upload
        return super().pending_repeats(study_id, described)

    @override
    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        return _of_study(lambda sql, *values: self._all(sql, values), study_id, after, 2**31)


class _Marked:
    """A connection whose statements have `?` for each value."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] = ()) -> psycopg.Cursor[Any]:
        return self._connection.execute(_marked(sql), values)


@cache
def _marked(sql: str) -> Any:
    return sql.replace("%", "%%").replace("?", "%s")


def _of_study(rows_of: Callable[..., Sequence[Any]], study_id: str, after: int, up_to: int) -> Iterator[Entry]:
    sql = f"SELECT {COLUMNS} FROM entries WHERE study_id = ? AND version > ? AND version <= ? ORDER BY version LIMIT {PAGE}"  # noqa: S608 - constants
    while rows := rows_of(sql, study_id, after, up_to):
        entries = list(map(as_entry, rows))
        yield from entries
        after = entries[-1].version or up_to
