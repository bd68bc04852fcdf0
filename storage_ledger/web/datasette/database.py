"""A Datasette database whose statements run in processes that can be killed, and whose file may be replaced while it is shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasette.database import Database, QueryInterrupted, Results  # type: ignore[import-untyped] # it ships no types

from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.auth.access_log import ASKER
from storage_ledger.web.datasette.query_pool import QueryPool, TooSlowError
from storage_ledger.web.datasette.query_process import Found, NoAnswer, Question
from storage_ledger.web.datasette.read_pauses import ReadPauses
from storage_ledger.web.datasette.replaceable_file import ReplaceableFile
from storage_ledger.web.fair_queue import FairQueue, TooMany


class Row(tuple[Any, ...]):  # noqa: SLOT001 - tuples of any length have none
    """Values by position or by column, as `sqlite3.Row` has them. `columns`: the names of all."""

    columns: Sequence[str]

    @classmethod
    def all(cls, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[Row]:
        """Return the rows of an answer."""
        made = []
        for values in rows:
            row = cls(values)
            row.columns = columns
            made.append(row)
        return made

    def keys(self) -> Sequence[str]:
        """Return the names of the columns."""
        return self.columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                key = self.columns.index(key)
            except ValueError:
                raise IndexError(f"no column {key}") from None  # as `sqlite3.Row` does
        return super().__getitem__(key)


class SafeDatabase(Database):  # type: ignore[misc] # untyped, as above
    """Statements run in a process of `pool`. `execute_fn`, for our own pages and for what Datasette asks about tables, does not.

    Those who ask take `turns`.
    """

    def __init__(self, pool: QueryPool, turns: FairQueue[Any], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._pool = pool
        self._turns = turns
        self._mine = threading.local()
        self._pauses = ReadPauses(Path(self.path))

    async def execute(
        self,
        sql: str,
        params: Any = None,
        truncate: bool = False,
        custom_time_limit: int | None = None,
        page_size: int | None = None,
        log_sql_errors: bool = True,  # noqa: ARG002 - Datasette's; SQL may hold a patient's name and is never logged
    ) -> Results:
        """Run a statement.

        Raises `QueryInterrupted` at its time limit, or if too many wait; the driver's `DatabaseError` if the file is damaged, and its
        `OperationalError` for everything else.
        """
        limit_ms = min(self.ds.sql_time_limit_ms, custom_time_limit or self.ds.sql_time_limit_ms)
        most = self.ds.max_returned_rows
        if most == (page_size or self.ds.page_size):
            most += 1  # the one more shows that there is a next page
        question = Question(str(self.path), sql, params or (), limit_ms / 1000, most if truncate else 0)
        try:
            answer: Found | NoAnswer = await self._in_turn(lambda: self._pool.run(question))
        except (TooSlowError, TooMany) as error:
            raise QueryInterrupted(error, sql, params) from None
        if isinstance(answer, NoAnswer):
            raise (sqlite.DatabaseError if answer.damaged else sqlite.OperationalError)(answer.message)
        return Results(Row.all(answer.columns, answer.rows), answer.cut, [(name,) for name in answer.columns])

    async def execute_fn(self, fn: Callable[[Any], Any]) -> Any:
        """Call `fn` with a connection to the file that has this name now, in a thread. Raises `QueryInterrupted` if too many wait."""
        try:
            return await self._in_turn(lambda: fn(self._connection()))
        except TooMany as error:
            raise QueryInterrupted(error, "", None) from None

    async def answers(self) -> None:
        """Return when the file can be read: in the next thread that is free, before everybody else. For health checks."""
        await self._in_turn(lambda: self._connection().execute("SELECT 1").fetchone(), first=True)

    async def _in_turn(self, read: Callable[[], Any], *, first: bool = False) -> Any:
        def reading() -> Any:
            with self._pauses.reading():
                return read()

        return await asyncio.wrap_future(self._turns.submit("" if first else ASKER.get(), reading, first=first))

    def _connection(self) -> Any:
        if (file := getattr(self._mine, "file", None)) is None:
            file = self._mine.file = ReplaceableFile(Path(self.path), self._connect)
        return file.connection()

    def _connect(self) -> Any:
        connection = self.connect()
        self._all_file_connections.remove(connection)  # ours to close
        self.ds._prepare_connection(connection, self.name)  # noqa: SLF001 - as Datasette does for its own
        return connection
