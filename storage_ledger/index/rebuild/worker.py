"""A share of a rebuild: a stretch of the ledger, checked and folded into a file of tables that is thrown away in the end.

    python -m storage_ledger.index.rebuild.worker LEDGER FILE AFTER UP_TO [FILE AFTER UP_TO]… < NUMBERS

makes some, one after the other, in a process of its own: each byte that it reads is the number of the next one, and several such
processes read from one pipe, so that none waits while there is work. It says how far it has come, a line each time: `AFTER position`,
and of one that is there `AFTER made`. When nobody listens any more it ends: whoever asked is gone.
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
from storage_ledger.index.batch import KEEP_STUDIES, Batch
from storage_ledger.index.search import write_search_text
from storage_ledger.index.tables import COLUMNS, FLAGS, OF_A_SERIES, OF_A_STUDY, ROWID, TABLES, add, add_patients, arrived
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.scan import Entries
from storage_ledger.system.sqlite import quoted, sqlite

FOLDED = ("studies", "files", "uploads", "damaged")
DERIVED = ("series", "dicom_studies", "patients", "arrivals")
"""The tables of a share; besides them `verified`, positions of entries that are applied in the end."""

GROUPED = tuple(dict.fromkeys((
    "study_instance_uid", "series_instance_uid", "bytes", "study_id", "archived_at", *FLAGS, *PATIENT, *OF_A_SERIES, *OF_A_STUDY,
    *Described._fields,
)))  # fmt: skip
"""All that `add`, `add_patients` and `write_search_text` read of every file: their rows lie in another order, and are larger."""

MADE = "made"
CACHE_KB = 16_384
READ = 1_000


def fold(
    file: Path, ledger: Ledger | Entries, after: int, up_to: int, on_progress: Callable[[int], None], *, keep: int = KEEP_STUDIES
) -> None:
    """Fill the tables of a share into `file`, which exists and is empty: of the entries beyond `after` up to `up_to`.

    `FOLDED` hold every row that these have changed, as it is after the last of them: what came before is folded, too. `DERIVED`
    hold what the share's files by themselves amount to, of `arrivals` what came in this stretch. Nothing of it is durable.
    """
    with scratch(file) as connection:
        for name in (*FOLDED, *DERIVED):
            connection.execute(f"CREATE TABLE {name} {TABLES[name]}")
        for name, number in ROWID.items():  # their rows are found by that alone, and nobody asks for their keys here
            others = [f'"{column}"' for column in COLUMNS[name] if column != number]
            connection.execute(f"DROP TABLE {name}")
            connection.execute(f"CREATE TABLE {name} ({number} INTEGER PRIMARY KEY, {', '.join(others)})")
        connection.execute("CREATE TABLE verified (position INTEGER PRIMARY KEY)")
        batch = Batch(connection, anew=True, keep=keep, earlier=ledger.study)
        batch.apply(_stretch(ledger, after, up_to, on_progress))
        connection.executemany("INSERT INTO verified VALUES (?)", ((position,) for position in batch.verified))
        connection.execute(f"CREATE INDEX by_uid ON files ({', '.join(GROUPED)})")
        for statement in (*add("IS NOT NULL"), add_patients("IS NOT NULL"), arrived(after + 1)):
            connection.execute(statement)
        write_search_text(connection, "IS NOT NULL")


@contextmanager
def scratch(file: Path) -> Iterator[Any]:
    """A connection of the driver to a file that exists and is empty, in one transaction; nothing of it is durable."""
    with closing(sqlite.connect(f"file:{quoted(file)}?mode=rw", uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _stretch(ledger: Ledger | Entries, after: int, up_to: int, on_progress: Callable[[int], None]) -> Iterator[Entry]:
    for start in range(after, up_to, READ):
        end = min(start + READ, up_to)
        yield from ledger.scan(start, end)
        on_progress(end)


def main(ledger_file: str, *asked: str) -> None:
    """Fold shares, one after the other, in a process of its own; of those `asked` the ones whose numbers it reads."""
    gc.disable()  # nothing that a fold makes holds itself
    ledger = Entries(Path(ledger_file))
    shares = list(zip(asked[0::3], asked[1::3], asked[2::3], strict=True))
    while number := os.read(0, 1):
        file, after, up_to = shares[number[0]]
        say = partial(_say, after)
        fold(Path(file), ledger, int(after), int(up_to), say)
        say(MADE)


def _say(after: str, word: object) -> None:
    os.write(1, f"{after} {word}\n".encode())  # fails once the other end is closed, however that process ended


if __name__ == "__main__":
    main(*sys.argv[1:])
