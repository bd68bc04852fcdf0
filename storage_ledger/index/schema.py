"""What an index.db has to look like, and what one says of itself."""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, StaticPool, create_engine

from storage_ledger.index.tables import INDEXES, SCHEMA, SEARCH, TABLES
from storage_ledger.system.sqlalchemy_engine import sqlite

SHADOW = "rebuild_"
"""How the names of the tables begin that a rebuild fills; then they lose that beginning."""


def schema(connection: Connection) -> set[tuple[str, str, str]]:
    """Tables, indexes, views and triggers with their SQL, but for SQLite's own and those of a rebuild."""
    rows = connection.exec_driver_sql("SELECT type, name, coalesce(sql, '') FROM sqlite_master")
    return {(row[0], row[1], row[2]) for row in rows if not row[1].startswith((SHADOW, "sqlite_"))}


@cache
def right_schema() -> frozenset[tuple[str, str, str]]:
    """The schema that a rebuild makes."""
    engine = create_engine("sqlite://", module=sqlite, poolclass=StaticPool)
    with engine.connect() as connection:
        sql = connection.exec_driver_sql
        for name, columns in TABLES.items():
            sql(f"CREATE TABLE {SHADOW}{name} {columns}")
        for name in TABLES:
            sql(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
        for statement in (*INDEXES, *SEARCH.values()):
            sql(statement)
        found = frozenset(schema(connection))
    engine.dispose()
    return found


def schema_version(connection: Connection) -> int:
    """Rises with each change of the schema (sqlite.org/pragma.html#pragma_schema_version)."""
    return int(connection.exec_driver_sql("PRAGMA schema_version").scalar() or 0)


def progress_of(connection: Connection) -> tuple[int, str, bytes] | None:
    """How far an index of this schema has come: position, ledger_id, leaf_hash. None: of another schema, or garbage."""
    sql = connection.exec_driver_sql
    if sql("PRAGMA user_version").scalar() != SCHEMA:
        return None
    rows = sql("SELECT position, ledger_id, leaf_hash FROM progress").fetchall()
    if [tuple(map(type, row)) for row in rows] != [(int, str, bytes)] or rows[0][0] < 0:
        return None
    return rows[0][0], rows[0][1], rows[0][2]
