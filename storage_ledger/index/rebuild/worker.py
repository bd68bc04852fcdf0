"""Folds partitions of the ledger: checks their entries and folds each partition into a temporary file of tables.

    python -m storage_ledger.index.rebuild.worker LEDGER FILE AFTER UP_TO [FILE AFTER UP_TO]… < NUMBERS

Several workers share one pipe on stdin as a job queue; each byte is a partition number. A worker folds one partition after another and
reports on stdout, one line each: `AFTER position` (progress of a partition) or `AFTER made` (its file is complete). It ends when stdout is
closed, because then the process that started it is gone.
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
from storage_ledger.index.derived_tables import COUNT_ARRIVALS, add_files, add_patients
from storage_ledger.index.schema import COLUMNS, FLAGS, OF_A_SERIES, OF_A_STUDY, ROWID, TABLES
from storage_ledger.index.search import write_search_text
from storage_ledger.index.writer import KEEP_STUDIES, PartitionWriter
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.ledger.entry_rows import Entries
from storage_ledger.system.sqlite import quoted, sqlite

FOLDED = ("studies", "files", "uploads", "damaged")
DERIVED = ("series", "dicom_studies", "patients", "arrivals")
"""The tables of a partition file. A further table, `verified`, has the positions of `verified` entries, applied after merging."""

READ_BY_DERIVED = tuple(dict.fromkeys((
    "study_instance_uid", "series_instance_uid", "bytes", "study_id", "archived_at", *FLAGS, *PATIENT, *OF_A_SERIES, *OF_A_STUDY,
    *Described._fields,
)))  # fmt: skip
"""All columns that `add_files`, `add_patients` and `write_search_text` read, for a covering index in their order."""

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
    """Fold the entries after `after` up to `up_to` into `file`, which must exist and be empty. Nothing is made durable.

    The `FOLDED` tables get each row that these entries change, in its final state, for which earlier entries of the study are folded too.
    The `DERIVED` tables cover only the files of this partition; `arrivals`, only those that arrived in it.
    """
    with _scratch_file(file) as connection:
        _create_tables(connection)
        writer = PartitionWriter(connection, ledger.study, keep_studies)
        writer.apply(_entries(ledger, after, up_to, on_progress))
        connection.executemany("INSERT INTO verified VALUES (?)", ((position,) for position in writer.verified))
        connection.execute(f"CREATE INDEX by_uid ON files ({', '.join(READ_BY_DERIVED)})")
        for statement in (*add_files("IS NOT NULL"), add_patients("IS NOT NULL")):
            connection.execute(statement)
        connection.execute(COUNT_ARRIVALS, {"first": after + 1})
        write_search_text(connection, "IS NOT NULL")


@contextmanager
def _scratch_file(file: Path) -> Iterator[Any]:
    """Yield a driver connection to an existing empty file, in one transaction."""
    with closing(sqlite.connect(f"file:{quoted(file)}?mode=rw", uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _create_tables(connection: Any) -> None:
    for name in (*FOLDED, *DERIVED):
        columns = TABLES[name]
        if (number := ROWID.get(name)) is not None:  # the only column by which rows are found here
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
    """Fold the partitions whose numbers arrive on stdin."""
    gc.disable()  # folding creates no reference cycles
    ledger = Entries(Path(ledger_file))
    partitions = list(zip(asked[0::3], asked[1::3], asked[2::3], strict=True))
    while number := os.read(0, 1):
        file, after, up_to = partitions[number[0]]
        report = partial(_report, after)
        fold(Path(file), ledger, int(after), int(up_to), report)
        report(COMPLETE)


def _report(after: str, word: object) -> None:
    os.write(1, f"{after} {word}\n".encode())  # fails when the reader is gone, however it ended


if __name__ == "__main__":
    main(*sys.argv[1:])
