"""Read ledger rows without assuming they are valid; nothing here fails on a damaged row or writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.payloads import ArchivedPayload, DescribedPayload, UnreadablePayload
from storage_ledger.domain.study import Study
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.entry_rows import COLUMNS
from storage_ledger.ledger.sqlite import NOT_THERE
from storage_ledger.system.parallel import batches
from storage_ledger.system.sqlite import as_it_is, connect, errors_mapped

BATCH = 500


@dataclass(frozen=True, slots=True)
class BelievedFile:
    """An archived file according to the ledger. `position`: of the first `archived` entry with this name in its study."""

    study_id: str
    name: str
    sha256: str
    bytes: int
    position: int


@dataclass(frozen=True, slots=True)
class BelievedStudy:
    """A study computed from its undamaged entries.

    `files`: by name, ordered by position; `speaker`: the message from which metadata.json is made; `whole`: every damaged entry
    could be taken from the mirror.
    """

    study: Study
    files: dict[str, BelievedFile]
    speaker: DescribedPayload | None
    whole: bool


class UntrustingReader:
    """Reads ledger.db through its own connection, with short statements, from one thread at a time.

    `repaired`: for each damaged or missing entry the mirror's copy, or None. The methods return that copy, so that damage in
    the ledger is reported once and not again by every later part.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise LedgerUnusable("ledger-missing", f"{path} {NOT_THERE}")
        self.path = path
        self.repaired: dict[int, Entry | None] = {}
        with errors_mapped():
            self._connection = connect(path)
        self._connection.text_factory = as_it_is

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Return all rows of one statement. Raises the same errors as the ledger."""
        with errors_mapped():
            return list(self._connection.execute(statement, values))

    def stream(self, statement: str, *values: object) -> Iterator[Any]:
        """Yield the rows one by one, as of the moment the statement began."""
        with errors_mapped():
            yield from self._connection.execute(statement, values)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything in the `with` block from one snapshot. Keep the block short: the WAL grows meanwhile."""
        with errors_mapped():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def interruptible(self, stopped: Any) -> Iterator[None]:
        """Abort long statements in the `with` block (with a `ledger-…` error) soon after `stopped()` returns true."""
        self._connection.set_progress_handler(lambda: int(stopped()), 100_000)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, 0)

    def last(self) -> int:
        """Return the last position; 0 for an empty ledger."""
        return int(self.sql("SELECT coalesce(max(position), 0) FROM entries")[0][0])

    def rows(self, after: int, up_to: int, limit: int = BATCH) -> list[Entry]:
        """Return entries in order, damaged or not."""
        found = self.sql(
            f"SELECT {COLUMNS} FROM entries WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",  # noqa: S608 - constants
            after,
            up_to,
            limit,
        )
        return [Entry(*row) for row in found]

    def leaves(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return positions and leaf hashes in order, damaged or not."""
        return [(row[0], row[1]) for row in self.sql(
            "SELECT position, leaf_hash FROM entries WHERE position > ? ORDER BY position LIMIT ?", after, limit
        )]  # fmt: skip

    def get(self, position: int) -> Entry | None:
        """Return one entry; if it is damaged in the ledger, the mirror's copy. None if both are damaged or missing."""
        if position in self.repaired:
            return self.repaired[position]
        found = self.sql(f"SELECT {COLUMNS} FROM entries WHERE position = ?", position)  # noqa: S608 - constants
        entry = Entry(*found[0]) if found else None
        return entry if entry is not None and not faults(entry) else None

    def believed(self, after: int, up_to: int) -> Iterator[Entry]:
        """Yield entries in order; a damaged or missing one is taken from the mirror or left out."""
        while after < up_to:
            rows = self.rows(after, up_to)
            end = rows[-1].position if len(rows) == BATCH else up_to
            yield from self._merged(rows, after, end)
            after = end

    def archived(self, after: int, up_to: int, limit: int = BATCH) -> tuple[list[Entry], int]:
        """Return undamaged `archived` entries in order, and the position up to which the list is complete."""
        rows = [
            Entry(*row)
            for row in self.sql(
                f"SELECT {COLUMNS} FROM entries WHERE position > ? AND position <= ? AND kind = ? ORDER BY position LIMIT ?",  # noqa: S608
                after,
                up_to,
                Kind.ARCHIVED.value,
                limit,
            )
        ]
        end = rows[-1].position if len(rows) == limit else up_to
        return [entry for entry in self._merged(rows, after, end) if entry.kind == Kind.ARCHIVED], end

    def study(self, study_id: str) -> BelievedStudy:
        """Compute a study from its current entries."""
        study, files, whole = Study(study_id), dict[str, BelievedFile](), True
        for entry in self.of_study(study_id):
            if faults(entry):
                whole = False
                continue
            try:
                study.apply(entry)
            except (KeyError, UnreadablePayload):  # its `described` is lost, or its payload does not fit its kind
                whole = False
                continue
            if entry.kind == Kind.ARCHIVED:
                file = ArchivedPayload.of(entry).file
                files.setdefault(file.name, BelievedFile(study_id, file.name, file.sha256, file.bytes, entry.position))
        speaker = self.get(study.speaker.position) if study.speaker else None
        whole = whole and None not in self.repaired.values()
        said = DescribedPayload.of(speaker) if speaker else None
        return BelievedStudy(study, files, said, whole)

    def names(self, study_id: str) -> set[str] | None:
        """Return the names of the study's archived files without folding it; None if damaged entries require `study` instead."""
        sql = (
            "SELECT CASE WHEN json_valid(payload) THEN json_extract(payload, '$.file.name') END FROM entries "
            "WHERE study_id = ? AND kind = ?"
        )
        found = {row[0] for row in self.sql(sql, study_id, Kind.ARCHIVED.value)}
        return None if self.repaired or not all(isinstance(name, str) for name in found) else found

    def is_placing(self, study_id: str) -> bool:
        """Return whether the study has a `place` work item: its folder may then be ahead of the ledger."""
        return bool(
            self.sql(
                "SELECT 1 FROM entries e JOIN pending p ON p.position = e.position WHERE e.study_id = ? AND p.stage = 'place' LIMIT 1",
                study_id,
            )
        )

    def of_study(self, study_id: str) -> Iterator[Entry]:
        """Yield a study's entries in order, a few hundred in memory; damaged or missing ones as the mirror has them, if it does."""
        rows = self.sql("SELECT position FROM entries WHERE study_id = ?", study_id)
        ours = {position: entry for position, entry in self.repaired.items() if entry is not None and entry.study_id == study_id}
        for batch in batches(sorted({row[0] for row in rows} | ours.keys()), BATCH):
            found = {entry.position: entry for entry in self._at(each for each in batch if each not in self.repaired)}
            for position in batch:
                entry = found.get(position) or ours.get(position)
                if entry is not None:
                    yield entry

    def _at(self, positions: Iterable[int]) -> list[Entry]:
        """Return the entries at these positions, damaged or not; one statement text for any number of positions."""
        sql = f"SELECT {COLUMNS} FROM entries WHERE position IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
        return [Entry(*row) for row in self.sql(sql, json.dumps(list(positions)))]

    def _merged(self, rows: Iterable[Entry], after: int, end: int) -> Iterator[Entry]:
        if not self.repaired:
            yield from rows
            return
        found = {row.position: row for row in rows if row.position not in self.repaired}
        found |= {p: entry for p, entry in self.repaired.items() if after < p <= end and entry is not None}
        yield from (found[position] for position in sorted(found))
