"""A Datasette database whose statements run in processes that can be killed, and whose file may be replaced while it is shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasette.database import Database, QueryInterrupted, Results  # type: ignore[import-untyped] # it ships no types

from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.datasette.query_pool import QueryPool, TooSlowError
from storage_ledger.web.datasette.query_process import Found, NoAnswer, Question
from storage_ledger.web.datasette.read_pauses import ReadPauses
from storage_ledger.web.datasette.replaceable_file import ReplaceableFile


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
    """Statements run in a process of `pool`. `execute_fn`, for our own pages and for what Datasette asks about tables, does not."""

    def __init__(self, pool: QueryPool, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._pool = pool
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

        Raises `QueryInterrupted` at its time limit, the driver's `DatabaseError` if the file is damaged, and its `OperationalError` for
        everything else.
        """
        limit_ms = min(self.ds.sql_time_limit_ms, custom_time_limit or self.ds.sql_time_limit_ms)
        most = self.ds.max_returned_rows
        if most == (page_size or self.ds.page_size):
            most += 1  # the one more shows that there is a next page
        question = Question(str(self.path), sql, params or (), limit_ms / 1000, most if truncate else 0)

        def in_thread() -> Found | NoAnswer:
            with self._pauses.reading():
                return self._pool.run(question)

        try:
            answer = await asyncio.get_running_loop().run_in_executor(self.ds.executor, in_thread)
        except TooSlowError as error:
            raise QueryInterrupted(error, sql, params) from None
        if isinstance(answer, NoAnswer):
            raise (sqlite.DatabaseError if answer.damaged else sqlite.OperationalError)(answer.message)
        return Results(Row.all(answer.columns, answer.rows), answer.cut, [(name,) for name in answer.columns])

    async def execute_fn(self, fn: Callable[[Any], Any]) -> Any:
        """Call `fn` with a connection to the file that has this name now, in one of Datasette's threads."""

        def in_thread() -> Any:
            if (file := getattr(self._mine, "file", None)) is None:
                file = self._mine.file = ReplaceableFile(Path(self.path), self._connect)
            with self._pauses.reading():
                return fn(file.connection())

        return await asyncio.get_running_loop().run_in_executor(self.ds.executor, in_thread)

    def _connect(self) -> Any:
        connection = self.connect()
        self._all_file_connections.remove(connection)  # ours to close
        self.ds._prepare_connection(connection, self.name)  # noqa: SLF001 - as Datasette does for its own
        return connection
