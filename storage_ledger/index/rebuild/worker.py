"""Folds one partition of the ledger: its entries are checked and folded into a file of tables that is thrown away in the end.

    python -m storage_ledger.index.rebuild.worker LEDGER FILE AFTER UP_TO [FILE AFTER UP_TO]… < NUMBERS

folds some of these partitions, one after the other, in a process of its own: each byte that it reads is the number of the next
one, and several such processes read from one pipe, so that none waits while there is work. It reports on stdout, a line each time:
`AFTER position` says how far a partition is folded, `AFTER made` that its file is complete. When nobody reads that any more, it
ends: the process that started it is gone.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.patient_identity import PATIENT
from storage_ledger.domain.search_text import Described
from storage_ledger.index.derived_tables import add_files, add_patients, count_arrivals
from storage_ledger.index.schema import COLUMNS, FLAGS, OF_A_SERIES, OF_A_STUDY, ROWID, TABLES
from storage_ledger.index.search import write_search_text
from storage_ledger.index.writer import KEEP_STUDIES, PartitionWriter
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.ledger.entry_rows import Entries
from storage_ledger.system.sqlite import quoted, sqlite

FOLDED = ("studies", "files", "uploads", "damaged")
DERIVED = ("series", "dicom_studies", "patients", "arrivals")
"""The tables of a partition; besides them `verified`, positions of entries that are applied in the end."""

READ_BY_DERIVED = tuple(dict.fromkeys((
    "study_instance_uid", "series_instance_uid", "bytes", "study_id", "archived_at", *FLAGS, *PATIENT, *OF_A_SERIES, *OF_A_STUDY,
    *Described._fields,
)))  # fmt: skip
"""All that `add_files`, `add_patients` and `write_search_text` read of a file: an index over it is smaller, and in their order."""

COMPLETE = "made"
CACHE_KB = 16_384
READ = 1_000


def fold(
    file: Path,
    ledger: IndexSource | Entries,
    after: int,
    up_to: int,
    on_progress: Callable[[int], None],
    *,
    keep_studies: int = KEEP_STUDIES,
) -> None:
    """Fold the entries beyond `after` up to `up_to` into `file`, which exists and is empty. Nothing of it is durable.

    `FOLDED` get every row that these entries have changed, as it is after the last of them: what came before is folded, too.
    `DERIVED` get what the files of this partition by themselves amount to; of `arrivals`, what came in it.
    """
    with _scratch_file(file) as connection:
        _create_tables(connection)
        writer = PartitionWriter(connection, ledger.study, keep_studies)
        writer.apply(_entries(ledger, after, up_to, on_progress))
        connection.executemany("INSERT INTO verified VALUES (?)", ((position,) for position in writer.verified))
        connection.execute(f"CREATE INDEX by_uid ON files ({', '.join(READ_BY_DERIVED)})")
        for statement in (*add_files("IS NOT NULL"), add_patients("IS NOT NULL"), count_arrivals(after + 1)):
            connection.execute(statement)
        write_search_text(connection, "IS NOT NULL")


@contextmanager
def _scratch_file(file: Path) -> Iterator[Any]:
    """A connection of the driver to a file that exists and is empty, in one transaction."""
    with closing(sqlite.connect(f"file:{quoted(file)}?mode=rw", uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _create_tables(connection: Any) -> None:
    for name in (*FOLDED, *DERIVED):
        columns = TABLES[name]
        if (number := ROWID.get(name)) is not None:  # its rows are found by that alone, and nobody asks for their keys here
            others = [f'"{column}"' for column in COLUMNS[name] if column != number]
            columns = f"({number} INTEGER PRIMARY KEY, {', '.join(others)})"
        connection.execute(f"CREATE TABLE {name} {columns}")
    connection.execute("CREATE TABLE verified (position INTEGER PRIMARY KEY)")


def _entries(ledger: IndexSource | Entries, after: int, up_to: int, on_progress: Callable[[int], None]) -> Iterator[Entry]:
    for start in range(after, up_to, READ):
        end = min(start + READ, up_to)
        yield from ledger.scan(start, end)
        on_progress(end)


def main(ledger_file: str, *asked: str) -> None:
    """Fold those of the partitions whose numbers stdin gives."""
    gc.disable()  # nothing that a fold makes holds itself
    ledger = Entries(Path(ledger_file))
    partitions = list(zip(asked[0::3], asked[1::3], asked[2::3], strict=True))
    while number := os.read(0, 1):
        file, after, up_to = partitions[number[0]]
        report = partial(_report, after)
        fold(Path(file), ledger, int(after), int(up_to), report)
        report(COMPLETE)


def _report(after: str, word: object) -> None:
    os.write(1, f"{after} {word}\n".encode())  # fails once nobody reads it, however that process ended


if __name__ == "__main__":
    main(*sys.argv[1:])
