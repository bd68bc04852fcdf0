"""What the engines of the ledger have in common: one set of tables, read and written with SQL."""

from __future__ import annotations

import json
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from heapq import merge
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

from typing_extensions import override

from storage_ledger.domain.entries import Entry, Kind, faults, understood
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.last_backup import NAME as LAST_BACKUP
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.share import Share
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.ledger.contract import Commit, Ledger, QueueLength, WorkItem
from storage_ledger.ledger.dialect import Dialect
from storage_ledger.ledger.entry_rows import COLUMNS, OPEN_OUTAGES, as_entry
from storage_ledger.ledger.transaction import MOVED_TO, TERM, Randomness, SqlTransaction
from storage_ledger.system.clock import Clock
from storage_ledger.system.sqlite import BUSY_TIMEOUT_S

E_COLUMNS = ", ".join(f"e.{name}" for name in Entry._fields)

METADATA_SYNCED = "metadata_synced"
"""The row of `meta` with the position up to which every metadata.json is durable."""

_STAGES = frozenset(stage.value for stage in Stage)
MAX_POSITION = 2**63 - 1


class SqlLedger(Ledger):
    """A ledger in SQL. An engine adds how it opens transactions and how it reads.

    `clock` returns UTC, `randomness(n)` n bytes; tests pass others. `on_commit` gets each commit that appended an entry or made work
    due. `is_copy`: it may be written though it was moved, by what keeps a copy of it up to date.
    """

    ledger_id: str

    def __init__(
        self, dialect: Dialect, *, clock: Clock, randomness: Randomness, on_commit: Callable[[Commit], None], is_copy: bool
    ) -> None:
        self._dialect = dialect
        self._is_copy = is_copy
        self._term: str | None = None
        self._clock = clock
        self._randomness = randomness
        self._on_commit = on_commit
        self._writing = threading.Lock()

    @abstractmethod
    def _transaction(self, within_s: float) -> AbstractContextManager[Any]:
        """Lend a connection in a transaction that holds the write lock, committed durably when the block ends, rolled back if it raises.

        Its `execute(statement, values)` takes `?` for each value.
        """

    @abstractmethod
    def _begun(self, connection: Any) -> SqlTransaction:
        """Return the engine's transaction on this connection."""

    @abstractmethod
    def _rows(self, sql: str, *values: object) -> Sequence[Any]:
        """Return all rows of a statement."""

    @abstractmethod
    def _one_by_one(self, condition: str, *values: object, newest_first: bool = False) -> Iterator[Entry]:
        """Iterate lazily over the entries that meet a condition, in order or newest first."""

    @override
    @contextmanager
    def write(self, *, within_s: float | None = None) -> Iterator[SqlTransaction]:
        asked_at = time.monotonic()
        if not self._writing.acquire(timeout=-1 if within_s is None else within_s):
            raise LedgerBusy("ledger-busy", "another process, or another thread of this one, has held the write lock too long")
        try:
            left_s = BUSY_TIMEOUT_S if within_s is None else max(0.0, within_s - (time.monotonic() - asked_at))
            with self._transaction(left_s) as connection:
                transaction = self._begun(connection)
                if not self._is_copy:
                    self._require_in_use(transaction.marks)
                yield transaction
            if transaction.appended or transaction.due:
                self._on_commit(Commit(tuple(entry.kind for entry in transaction.appended), frozenset(transaction.due)))
            for then in transaction.then:
                then()
        finally:
            self._writing.release()

    def _require_in_use(self, marks: Mapping[str, str]) -> None:
        if (address := marks.get(MOVED_TO)) is not None:
            text = f"this ledger was moved to {address}: set LEDGER_URL to it, or move it back with `storage-ledger copy-ledger`"
            raise LedgerUnusable("ledger-moved", text)
        if self._term is not None and marks.get(TERM) != self._term:
            text = "another `serve` has taken over this ledger, while this one was cut off: this one stops"
            raise LedgerUnusable("ledger-taken-over", text)

    @override
    def last(self) -> Entry | None:
        return self._one("ORDER BY position DESC LIMIT 1")

    @override
    def get(self, position: int) -> Entry | None:
        return self._one("WHERE position = ?", position)

    @override
    def read(self, after: int, limit: int) -> list[Entry]:
        return self._entries("WHERE position > ? ORDER BY position LIMIT ?", after, limit)

    @override
    def naming_study(self, study_id: str) -> Iterator[Entry]:
        return self._one_by_one(self._dialect.naming_study, study_id)

    @override
    def open_outages(self) -> list[Entry]:
        found = self._entries(f"WHERE {OPEN_OUTAGES} ORDER BY position")
        return [entry for entry in found if not faults(entry) and understood(entry) is not None]

    @override
    def of_upload(self, upload_path: str) -> list[Entry]:
        return self._entries(f"WHERE {self._dialect.upload_path} = ? ORDER BY position", upload_path)

    @override
    def is_pending(self, position: int, stage: Stage) -> bool:
        return bool(self._rows("SELECT 1 FROM pending WHERE position = ? AND stage = ?", position, stage.value))

    @override
    def is_upload_waiting(self, upload_path: str) -> bool:
        [(_, work_items)] = self._rows(self._dialect.last_and_waiting, upload_path)
        return bool(work_items)

    @override
    def has_kind(self, study_id: str, kind: str) -> bool:
        return bool(self._rows("SELECT 1 FROM entries WHERE study_id = ? AND kind = ? LIMIT 1", study_id, kind))

    @override
    def count_studies(self, *, after: int = 0) -> int:
        position = "position" if after else f"{self._dialect.no_index}position"  # SQLite then reads another index instead of all rows
        return int(self._rows(f"SELECT count(*) FROM entries WHERE version = 1 AND {position} > ?", after)[0][0])  # noqa: S608 - constants

    @override
    def studies_with_kind(self, kind: str, *, after: int = 0) -> list[str]:
        sql = (
            "SELECT study_id FROM entries WHERE position > ? AND kind = ? AND study_id IS NOT NULL GROUP BY study_id ORDER BY min(position)"
        )
        return [row[0] for row in self._rows(sql, after, kind)]

    @override
    def studies_beginning(self, prefix: str, limit: int) -> list[str]:
        sql = "SELECT study_id FROM entries WHERE study_id >= ? AND study_id < ? AND version = 1 ORDER BY study_id LIMIT ?"
        return [row[0] for row in self._rows(sql, prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1), limit)]

    @override
    def first_of_studies(self, after: int, limit: int) -> list[tuple[int, str]]:
        sql = "SELECT position, study_id FROM entries WHERE position > ? AND version = 1 ORDER BY position LIMIT ?"
        return [(row[0], row[1]) for row in self._rows(sql, after, limit)]

    @override
    def of_no_study(self, kinds: Sequence[str], limit: int, *, before: int | None = None) -> Iterator[Entry]:
        # One query for each kind, in index order: with several kinds, SQLite would sort all rows.
        below = MAX_POSITION if before is None else before
        newest = [self._one_by_one("study_id IS NULL AND kind = ? AND position < ?", kind, below, newest_first=True) for kind in kinds]
        merged = newest[0] if len(newest) == 1 else merge(*newest, key=attrgetter("position"), reverse=True)
        yield from islice((each for each in merged if not faults(each)), limit)

    @override
    def due(
        self,
        stages: Sequence[Stage],
        *,
        limit: int,
        busy: Collection[int] = (),
        busy_studies: Collection[str] = (),
        up_to: int | None = None,
        share: Share | None = None,
    ) -> list[WorkItem]:
        most = MAX_POSITION if up_to is None else up_to
        values = (rfc3339(self._clock()), most, json.dumps(list(busy)), json.dumps(list(busy_studies)), *_values(share), limit)
        # One query for each stage, in index order: for several stages, all due rows would be read and sorted, a hundred thousand of them
        # after the Status Service was away.
        sql = self._due(share)
        rows = [row for stage in stages for row in self._rows(sql, stage, *values)]
        if len(stages) > 1:
            rows = sorted(rows, key=itemgetter(1, 3))[:limit]
        return [WorkItem(Entry(*row[3:]), Stage(row[0]), row[1], row[2]) for row in rows if row[0] in _STAGES]

    @override
    def queue(self) -> list[QueueLength]:
        rows = self._rows(
            "SELECT q.stage, q.rows, e.recorded_at, q.next FROM (SELECT stage, count(*) AS rows, min(position) AS oldest, "
            "min(not_before) AS next FROM pending GROUP BY stage) q JOIN entries e ON e.position = q.oldest ORDER BY q.stage"
        )
        return [QueueLength(Stage(row[0]), *row[1:]) for row in rows if row[0] in _STAGES]

    @override
    def next_due(self, stages: Sequence[Stage], *, share: Share | None = None) -> str | None:
        now = rfc3339(self._clock())
        sql = self._next_due(share)
        return min((row[0] for stage in stages for row in self._rows(sql, stage.value, now, *_values(share))), default=None)

    @override
    def pending_of(self, study_id: str) -> list[WorkItem]:
        rows = self._rows(
            f"SELECT p.stage, p.not_before, p.attempts, {E_COLUMNS} FROM entries e JOIN pending p ON e.position = p.position "  # noqa: S608 - constants
            "WHERE e.study_id = ? ORDER BY p.position",
            study_id,
        )
        return [WorkItem(Entry(*row[3:]), Stage(row[0]), row[1], row[2]) for row in rows if row[0] in _STAGES]

    @override
    def metadata_synced(self) -> int:
        rows = self._rows("SELECT value, (SELECT max(position) FROM entries) FROM meta WHERE name = ?", METADATA_SYNCED)
        position = int(rows[0][0]) if rows and rows[0][0].isdecimal() else 0
        return position if position <= (rows[0][1] if rows and rows[0][1] else 0) else 0

    @override
    def studies_with_unsynced_metadata(self) -> list[str]:
        archived = self.studies_with_kind(Kind.ARCHIVED, after=self.metadata_synced())
        sql = (
            "SELECT DISTINCT e.study_id FROM pending p JOIN entries e ON e.position = p.position WHERE p.stage = 'place' "
            "AND EXISTS (SELECT 1 FROM entries a WHERE a.study_id = e.study_id AND a.kind = 'archived')"
        )
        return list(dict.fromkeys([*archived, *(row[0] for row in self._rows(sql))]))

    @override
    def note_metadata_synced(self, position: int) -> None:
        self._note(METADATA_SYNCED, str(position))

    @override
    def last_backup(self) -> LastBackup | None:
        rows = self._rows("SELECT value FROM meta WHERE name = ?", LAST_BACKUP)
        return LastBackup.of(rows[0][0]) if rows else None

    @override
    def note_backup(self, backup: LastBackup) -> None:
        self._note(LAST_BACKUP, backup.stored())

    def work_queue(self, up_to: int) -> list[tuple[int, str, str, int]]:
        """Return the rows of the work queue for entries up to this position, in order: position, stage, not_before, attempts."""
        sql = "SELECT position, stage, not_before, attempts FROM pending WHERE position <= ? ORDER BY position, stage"
        return [(row[0], row[1], row[2], row[3]) for row in self._rows(sql, up_to)]

    def notes(self) -> dict[str, str]:
        """Return what `meta` says about this ledger, but not its id and where it is."""
        rows = self._rows("SELECT name, value FROM meta WHERE name NOT IN ('ledger_id', ?, ?)", MOVED_TO, TERM)
        return {row[0]: row[1] for row in rows}

    def set_notes(self, notes: Mapping[str, str]) -> None:
        """Record what `notes` of another copy returned. Durable on return."""
        for name, value in notes.items():
            self._note(name, value)

    def _note(self, name: str, value: str) -> None:
        with self._writing, self._transaction(BUSY_TIMEOUT_S) as connection:
            sql = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            connection.execute(sql, (name, value))

    def _one(self, where: str, *values: object) -> Entry | None:
        found = self._entries(where, *values)
        return found[0] if found else None

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return list(map(as_entry, self._rows(f"SELECT {COLUMNS} FROM entries {where}", *values)))  # noqa: S608 - constants

    def _due(self, share: Share | None) -> str:
        # The lists are JSON, so that the statement is always the same and is prepared once.
        return f"""SELECT p.stage, p.not_before, p.attempts, {E_COLUMNS} FROM pending p JOIN entries e ON e.position = p.position
            WHERE p.stage = ? AND p.not_before <= ? AND p.position <= ?
              AND p.position NOT IN ({self._dialect.positions_in})
              AND (e.study_id IS NULL OR e.study_id NOT IN ({self._dialect.texts_in})){f" AND {self._dialect.of_share}" if share else ""}
            ORDER BY p.not_before, p.position LIMIT ?"""  # noqa: S608 - only marks and constants are put in

    def _next_due(self, share: Share | None) -> str:
        sql = "SELECT p.not_before FROM pending p JOIN entries e ON e.position = p.position WHERE p.stage = ? AND p.not_before > ?"
        return f"{sql}{f' AND {self._dialect.of_share}' if share else ''} ORDER BY p.not_before LIMIT 1"


def _values(share: Share | None) -> tuple[int, ...]:
    return () if share is None else (share.number, share.of)
