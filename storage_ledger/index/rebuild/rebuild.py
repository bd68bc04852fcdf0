"""Makes every table of index.db from the ledger, in shadow tables that take the place of the old ones in one transaction."""

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
from storage_ledger.index.rebuild.merge import derive_again, merge
from storage_ledger.index.rebuild.partitions import RebuildOptions, folded, left_over, remove
from storage_ledger.index.schema import INDEXES, SCHEMA, SEARCH, SHADOW, TABLES, schema_version, set_progress
from storage_ledger.index.writer import FollowingWriter
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.system import logs

CACHE_KB = 65_536
READ = 500


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild came to: where the index stands now, the entries that it had to leave out, and SQLite's `schema_version`."""

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
    """Rebuild the index up to the ledger's end. Call it while no other process does.

    Readers see the old index until it returns, and another process may follow meanwhile. Each entry is checked against its hashes;
    one that fails is left out, and named in the table `damaged`. Memory does not grow with the number of entries, except for SQLite's
    sorting for two indexes at a time; the disk needs room for the new index and about as much again.
    `on_progress` hears how many entries are folded; after that `on_indexed` hears how many of how many indexes are made, from 0.
    When it fails the old index is still there. Raises what `IndexFile` says.
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
        with file.transaction() as connection:  # from here on a process that follows has to wait
            _replace_tables(connection, on_indexed)
            fixity.apply_all(connection.execute, (of_ledger(partial(ledger.get, each)) for each in reversed(verified)))
            # The old tables may have got entries meanwhile that the new ones lack.
            writer = FollowingWriter(connection, get=lambda described: of_ledger(partial(ledger.get, described)))
            last = writer.apply(_beyond(ledger, position)) or last
            set_progress(connection, last, ledger.ledger_id)
            damaged = connection.execute("SELECT position, code FROM damaged ORDER BY position").fetchall()
            connection.execute("PRAGMA cache_size = -2000")
            return Rebuilt(last, damaged, schema_version(connection))


def remove_left_over(file: IndexFile) -> None:
    """Remove what a rebuild that was killed has left behind. Call it while none runs."""
    with file.transaction() as connection:
        _drop_shadow_tables(connection)
    remove(left_over(file.path))


def has_left_over(file: IndexFile) -> bool:
    """Whether there is anything of a rebuild: one goes on just now, or one was killed."""
    with file.transaction() as connection:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{SHADOW}studies",)).fetchone()
    return found is not None or any(left_over(file.path))


@contextmanager
def _shadow_tables(file: IndexFile) -> Iterator[None]:
    """Empty tables beside those that are read; they go when something fails."""
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
    """The same files: they are made while they are asked for, and what fails then is the ledger's fault."""
    while (file := of_ledger(partial(next, files, None))) is not None:
        yield file


def _replace_tables(connection: Any, on_indexed: Callable[[int, int], None]) -> None:
    """Drop everything but the shadow tables, give these the names, and make what is made of whole tables."""
    sql = connection.execute
    for table in SEARCH:
        sql(f"DROP TABLE IF EXISTS {table}_fts")  # drops the tables behind it, too, which cannot be dropped by themselves
    for kind, name in sql("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall():
        if not name.startswith((SHADOW, "sqlite_")):
            sql(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
    for name in TABLES:
        sql(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
    late = [index for index in INDEXES if " ON dicom_studies " in index]  # once the rows are as they stay
    steps: list[Callable[[], object]] = [
        *(partial(sql, index) for index in INDEXES if index not in late),
        partial(_make_search, connection, "studies"),
        partial(derive_again, connection),
        *(partial(sql, index) for index in late),
        partial(_make_search, connection, "dicom_studies"),
    ]
    on_indexed(0, len(steps))
    for number, step in enumerate(steps, 1):
        step()
        on_indexed(number, len(steps))
    sql(f"PRAGMA user_version = {SCHEMA}")


def _make_search(connection: Any, table: str) -> None:
    connection.execute(SEARCH[table])
    connection.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")  # noqa: S608 - a name of ours


def _beyond(ledger: IndexSource, position: int) -> Iterator[Entry]:
    while entries := of_ledger(partial(ledger.read, position, READ)):
        yield from entries
        position = entries[-1].position
