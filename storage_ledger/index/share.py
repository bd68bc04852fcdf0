"""A share of a rebuild: a stretch of the ledger, checked and folded into a file of tables that is thrown away in the end.

    python -m storage_ledger.index.share LEDGER FILE AFTER UP_TO

does it in a process of its own. It says how far it has come, a line each time: `AFTER position`. When nobody listens any more it ends:
whoever asked is gone.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from storage_ledger.core.entries import Entry
from storage_ledger.index.batch import KEEP_STUDIES, Batch
from storage_ledger.index.tables import ROWID, TABLES
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.driver import quoted, sqlite
from storage_ledger.ledger.reading import Entries

FOLDED = ("studies", "files", "uploads", "damaged")
"""The tables of a share; besides them `verified`, positions of entries that are applied in the end."""

CACHE_KB = 16_384
READ = 1_000


def fold(file: Path, ledger: Ledger | Entries, entries: Iterable[Entry], *, keep: int = KEEP_STUDIES) -> None:
    """Fill the tables of a share into `file`, which exists and is empty. Nothing of it is durable.

    They hold every row that these entries have changed, as it is after the last of them: what came before is folded, too.
    """
    with scratch(file) as connection:
        for name in FOLDED:
            connection.execute(f"CREATE TABLE {name} {TABLES[name]}")
        for name in ROWID:  # their rows are found by that alone, and nobody asks for their keys here
            connection.execute(f"ALTER TABLE {name} RENAME TO keyed")
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM keyed")  # noqa: S608 - a name of ours
            connection.execute("DROP TABLE keyed")
        connection.execute("CREATE TABLE verified (position INTEGER PRIMARY KEY)")
        batch = Batch(connection, anew=True, keep=keep, earlier=ledger.study)
        batch.apply(entries)
        connection.executemany("INSERT INTO verified VALUES (?)", ((position,) for position in batch.verified))


@contextmanager
def scratch(file: Path) -> Iterator[Any]:
    """A connection of the driver to a file that exists and is empty, in one transaction; nothing of it is durable."""
    with closing(sqlite.connect(f"file:{quoted(file)}?mode=rw", uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def stretch(ledger: Ledger | Entries, after: int, up_to: int, on_progress: Callable[[int], None]) -> Iterator[Entry]:
    """The entries beyond `after` up to position `up_to`."""
    for start in range(after, up_to, READ):
        end = min(start + READ, up_to)
        yield from ledger.scan(start, end)
        on_progress(end)


def main(ledger_file: str, file: str, after: str, up_to: str) -> None:
    """Fold one share, in a process of its own."""
    gc.disable()  # nothing that a fold makes holds itself

    def say(position: int) -> None:
        os.write(1, f"{after} {position}\n".encode())  # fails once the other end is closed, however that process ended

    ledger = Entries(Path(ledger_file))
    fold(Path(file), ledger, stretch(ledger, int(after), int(up_to), say))


if __name__ == "__main__":
    main(*sys.argv[1:])
