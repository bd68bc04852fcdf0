"""Reads rows of the SQLite table `entries`: columns, indexed conditions, and the `Entry` of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from storage_ledger.domain.entries import EncodedEntry, Entry
from storage_ledger.system.sqlite import BUSY_TIMEOUT_S, is_undecodable, quoted, sqlite, texts_as_they_are

E = TypeVar("E", bound=Entry)

COLUMNS = ", ".join(Entry._fields)
OPEN_OUTAGES = (
    "study_id IS NULL AND kind = 'failed' AND position NOT IN (SELECT cause FROM entries "
    "WHERE study_id IS NULL AND kind = 'recovered' AND cause IS NOT NULL)"
)
"""Condition: entries that begin an outage which no entry ends."""

OF_STUDY = f"SELECT {COLUMNS} FROM entries WHERE study_id = ? ORDER BY version"  # noqa: S608 - constants
OF_STUDY_BEYOND = f"SELECT {COLUMNS} FROM entries WHERE study_id = ? AND version > ? ORDER BY version"  # noqa: S608 - constants
_ENCODED = COLUMNS.replace(" payload,", " CASE typeof(payload) WHEN 'text' THEN CAST(payload AS BLOB) END,")
_RANGE = "WHERE position > ? AND position <= ? ORDER BY position"
LEAF_HASHES = f"SELECT CAST(leaf_hash AS BLOB) FROM entries {_RANGE}"  # noqa: S608 - constants
SCAN = f"SELECT {COLUMNS} FROM entries {_RANGE}"  # noqa: S608 - constants
_SCAN_ENCODED = f"SELECT {_ENCODED} FROM entries {_RANGE}"  # noqa: S608 - constants
_STUDY_ENCODED = f"SELECT {_ENCODED} FROM entries WHERE study_id = ? ORDER BY version"  # noqa: S608 - constants

as_entry: Callable[[Any], Entry] = partial(tuple.__new__, Entry)
"""Like `Entry._make`, in a third of the time."""
_as_encoded: Callable[[Any], EncodedEntry] = partial(tuple.__new__, EncodedEntry)


def scanned(connection: Any, sql: str, after: int, up_to: int, make: Callable[[Any], E]) -> Iterator[E]:
    """Iterate lazily over the entries beyond `after` up to `up_to`. For texts that are not UTF-8 see `fetched`."""
    reached = after
    try:
        for row in connection.execute(sql, (after, up_to)):
            yield make(row)
            reached = row[0]
    except sqlite.OperationalError as error:
        if not is_undecodable(error):
            raise
    else:
        return
    with texts_as_they_are(connection):
        yield from map(make, connection.execute(sql, (reached, up_to)))


def one_by_one(connection: Any, sql: str, values: Sequence[object], make: Callable[[Any], E]) -> Iterator[E]:
    """Iterate lazily over the entries of another statement. For texts that are not UTF-8 see `fetched`."""
    taken = 0
    try:
        for row in connection.execute(sql, values):
            yield make(row)
            taken += 1
    except sqlite.OperationalError as error:
        if not is_undecodable(error):
            raise
    else:
        return
    with texts_as_they_are(connection):
        yield from map(make, islice(connection.execute(sql, values), taken, None))


def of_study(connection: Any, study_id: str, after: int) -> Iterator[Entry]:
    """Iterate over a study's entries beyond version `after`; with 0 all, even one whose version is damaged."""
    if after:
        return one_by_one(connection, OF_STUDY_BEYOND, (study_id, after), as_entry)
    return one_by_one(connection, OF_STUDY, (study_id,), as_entry)


class Entries:
    """Reads entries for a worker process of the index rebuild, with payloads as UTF-8 bytes. Raises the driver's errors.

    Decoding payloads and encoding them again for their hashes would take a fifteenth of the rebuild's time.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite.connect(f"file:{quoted(path)}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    def scan(self, after: int, up_to: int) -> Iterator[EncodedEntry]:
        """Iterate over the entries beyond position `after` up to `up_to`, in order."""
        return scanned(self._connection, _SCAN_ENCODED, after, up_to, _as_encoded)

    def study(self, study_id: str) -> Iterator[EncodedEntry]:
        """Iterate over all entries of a study, in order."""
        return one_by_one(self._connection, _STUDY_ENCODED, (study_id,), _as_encoded)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
