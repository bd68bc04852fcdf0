"""Rebuilds all tables of index.db from the ledger, in shadow tables that replace the old ones in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Entry
from storage_ledger.index import fixity
from storage_ledger.index.database_file import IndexFile, of_ledger
from storage_ledger.index.rebuild.merge import merge, recompute_noted
from storage_ledger.index.rebuild.partitions import RebuildOptions, folded, left_over, remove
from storage_ledger.index.schema import FILL_FACETS, INDEXES, SCHEMA, SEARCH, SHADOW, TABLES, TRIGGERS, schema_version, set_progress
from storage_ledger.index.writer import FollowingWriter
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.system import logs

CACHE_KB = 65_536
READ = 500


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Result of a rebuild: the last entry in the index, the entries left out, and SQLite's `schema_version`."""

    last: Entry | None
    damaged: Sequence[tuple[int, str]]
    schema_version: int


def rebuild(
    file: IndexFile,
    ledger: IndexSource,
    options: RebuildOptions,
    on_progress: Callable[[int], None],
    on_indexed: Callable[[int, int], None],
) -> Rebuilt:
    """Rebuild the index up to the end of the ledger. No other process may rebuild at the same time.

    Readers see the old index until this returns, and another process may follow meanwhile. Each entry is checked against its hashes; one
    that fails is left out and listed in the table `damaged`. Memory does not grow with the number of entries, except for SQLite's sorting
    for two indexes at a time. The disk needs about twice the size of the new index.
    `on_progress` gets the number of entries folded; then `on_indexed` gets the number of indexes built and their total, starting at 0.
    If it fails, the old index is kept. Raises what `IndexFile` documents.
    """
    last = ledger.last()
    position = last.position if last else 0
    logs.get().info("index.rebuild", position=position)
    with _shadow_tables(file):
        with (
            closing(folded(file.path, ledger, position, options, on_progress)) as files,
            file.connection() as connection,
        ):
            verified = merge(connection, SHADOW, _read_of_ledger(files))
        with file.transaction() as connection:  # from here on, a process that follows has to wait
            _replace_tables(connection, on_indexed)
            fixity.apply_all(connection.execute, (of_ledger(partial(ledger.get, each)) for each in reversed(verified)))
            # A process that follows may have added entries to the old tables that the new ones lack.
            writer = FollowingWriter(connection, get=lambda described: of_ledger(partial(ledger.get, described)))
            last = writer.apply(_beyond(ledger, position)) or last
            set_progress(connection, last, ledger.ledger_id)
            damaged = connection.execute("SELECT position, code FROM damaged ORDER BY position").fetchall()
            connection.execute("PRAGMA cache_size = -2000")
            return Rebuilt(last, damaged, schema_version(connection))


def remove_left_over(file: IndexFile) -> None:
    """Remove what a killed rebuild left behind. No rebuild may be running."""
    with file.transaction() as connection:
        _drop_shadow_tables(connection)
    remove(left_over(file.path))


def has_left_over(file: IndexFile) -> bool:
    """Return whether there are remains of a rebuild, running or killed."""
    with file.transaction() as connection:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{SHADOW}studies",)).fetchone()
    return found is not None or any(left_over(file.path))


@contextmanager
def _shadow_tables(file: IndexFile) -> Iterator[None]:
    """Create empty shadow tables beside those in use; drop them if the block fails."""
    with file.transaction() as connection:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        _drop_shadow_tables(connection)
        for name, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {SHADOW}{name} {columns}")
    try:
        yield
    except BaseException:
        with suppress(Exception), file.transaction() as connection:
            _drop_shadow_tables(connection)
        raise


def _drop_shadow_tables(connection: Any) -> None:
    for name in TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {SHADOW}{name}")


def _read_of_ledger(files: Iterator[Path]) -> Iterator[Path]:
    """Yield the same files; producing one reads the ledger, so pass errors on as the ledger's (see `of_ledger`)."""
    while (file := of_ledger(partial(next, files, None))) is not None:
        yield file


def _replace_tables(connection: Any, on_indexed: Callable[[int, int], None]) -> None:
    """Drop everything except the shadow tables, rename these, and build indexes, search and what spans partitions."""
    sql = connection.execute
    for table in SEARCH:
        sql(f"DROP TABLE IF EXISTS {table}_fts")  # also drops its internal tables, which cannot be dropped directly
    for kind, name in sql("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall():
        if not name.startswith((SHADOW, "sqlite_")):
            sql(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
    for name in TABLES:
        sql(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
    late = [index for index in INDEXES if " ON dicom_studies " in index]  # after `recompute_noted` has written the final rows
    steps: list[Callable[[], object]] = [
        *(partial(sql, index) for index in INDEXES if index not in late),
        partial(_make_search, connection, "studies"),
        partial(recompute_noted, connection),
        *(partial(sql, index) for index in late),
        partial(_make_search, connection, "dicom_studies"),
        partial(_count_facets, connection),
    ]
    on_indexed(0, len(steps))
    for number, step in enumerate(steps, 1):
        step()
        on_indexed(number, len(steps))
    sql(f"PRAGMA user_version = {SCHEMA}")


def _count_facets(connection: Any) -> None:
    for statement in (*FILL_FACETS, *TRIGGERS):
        connection.execute(statement)


def _make_search(connection: Any, table: str) -> None:
    connection.execute(SEARCH[table])
    connection.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")  # noqa: S608 - our own name


def _beyond(ledger: IndexSource, position: int) -> Iterator[Entry]:
    while entries := of_ledger(partial(ledger.read, position, READ)):
        yield from entries
        position = entries[-1].position
