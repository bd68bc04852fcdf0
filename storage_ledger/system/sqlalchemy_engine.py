"""Runs SQLAlchemy on our connections, for the migrations."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, NullPool, StaticPool, create_engine, event

from storage_ledger.system.sqlite import as_ours, sqlite


def engine_on(connection: Any) -> Engine:
    """Return an engine on this one driver connection; disposing of the engine closes it.

    Each transaction begins with the write lock. Driver errors are mapped to ours, as in `system.sqlite.SqliteFile`.
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


def postgres_engine(url: str) -> Engine:
    """Return an engine on a PostgreSQL database. Driver errors are mapped to ours."""
    import psycopg  # noqa: PLC0415 - an extra

    from storage_ledger.system import postgres  # noqa: PLC0415

    def connected() -> psycopg.Connection[Any]:
        connection = postgres.connect(url)
        connection.autocommit = False
        return connection

    engine = create_engine("postgresql+psycopg://", creator=connected, poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "handle_error")
    def _map(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, psycopg.Error):
            raise postgres.as_ours(context.original_exception) from context.original_exception

    return engine
