"""SQLAlchemy on connections of ours: for the migrations, and as long as the index needs it."""

from __future__ import annotations

import errno as errnos
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, QueuePool, StaticPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.system.sqlite import RESTORE, as_ours, connect, sqlite


def engine_on(connection: Any) -> Engine:
    """An engine on this one connection of the driver's, which it closes when it is disposed of.

    Each transaction begins with the write lock. The driver's errors come out as ours, as from `system.sqlite.SqliteFile`.
    """
    engine = create_engine("sqlite://", module=sqlite, creator=lambda: connection, poolclass=StaticPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "handle_error")
    def _map(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, sqlite.Error):
            raise as_ours(context.original_exception) from context.original_exception

    return engine


def open_engine(path: Path, *, writable: bool, durable: bool = True, pool_size: int = 4, page_bytes: int | None = None) -> Engine:
    """An engine on `path`: see `system.sqlite.connect`."""
    engine = create_engine(
        "sqlite://",
        module=sqlite,
        creator=partial(connect, path, writable=writable, durable=durable, page_bytes=page_bytes),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=8,
        hide_parameters=True,
    )
    begin = "BEGIN IMMEDIATE" if writable else "BEGIN"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def driver(connection: Connection) -> Any:
    """The driver's own connection, inside the transaction of SQLAlchemy's: for the statements that run for every event."""
    return connection.connection.driver_connection


@contextmanager
def translated() -> Iterator[None]:
    """SQLite's errors as ours: full, busy and I/O are worth another try; damage and foreign files are not."""
    try:
        yield
    except (DBAPIError, sqlite.Error) as error:
        original = getattr(error, "orig", None) or error
        name = getattr(original, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_FULL",)):
            raise LedgerBusy("ledger-full", "the ledger's volume is full: nothing was recorded", errno=errnos.ENOSPC) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
            raise LedgerBusy("ledger-busy", f"another process has been writing for a long time ({name})") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            raise LedgerBusy("ledger-io", f"the ledger cannot be written ({name})", errno=errnos.EIO) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise LedgerUnusable("ledger-damaged", f"SQLite says {name}. {RESTORE}") from error
        raise  # a bug, or a trigger that did its duty
