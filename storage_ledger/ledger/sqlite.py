"""The ledger in one SQLite file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from storage_ledger.domain import canonical_json, work_queue
from storage_ledger.domain.entries import CURRENT_SCHEMA, Entry, Kind, NewEntry, faults, has_whole_header, understood
from storage_ledger.domain.ids import later, rfc3339, uuid7
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.redeliveries import DescribedUpload, repeats_of
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.ledger.contract import Commit, QueueLength, WorkItem
from storage_ledger.ledger.scan import SCAN, as_entry, one_by_one, scanned
from storage_ledger.system.sqlite import BUSY_TIMEOUT_S, RESTORE, SqliteFile, fetched

NOT_THERE = "does not exist: is LEDGER_PATH right, and its volume mounted? `storage-ledger migrate` makes a new, empty one"
COLUMNS = "position, entry_id, study_id, version, kind, schema, recorded_at, cause, payload, payload_sha256, salt, leaf_hash"
_E_COLUMNS = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
_row = attrgetter(*COLUMNS.split(", "))
_UPLOAD_PATH = "CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END"  # the very words of the index
# The + keeps SQLite from going through all entries of the study, of which there may be thousands, instead of the upload's.
_TO_PLACE = (
    "SELECT e.position, json_extract(e.payload, '$.raw_sha256') FROM entries e "  # noqa: S608 - constants
    "JOIN pending p ON p.position = e.position AND p.stage = 'place' "
    f"WHERE +e.study_id = ? AND {_UPLOAD_PATH} = ? ORDER BY e.position"
)
_INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join('?' * 12)})"  # noqa: S608 - constants

OPEN_OUTAGES = (
    "study_id IS NULL AND kind = 'failed' AND position NOT IN (SELECT cause FROM entries "
    "WHERE study_id IS NULL AND kind = 'recovered' AND cause IS NOT NULL)"
)
"""Which entries say that an outage began of which none says that it ended."""
NAMING_STUDY = "study_id IS NULL AND CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END = ?"
"""Which entries of no study are about one all the same. The very words of the index."""

_STAGES = frozenset(stage.value for stage in Stage)
READ_BACK_WITHIN_S = 86_400.0
_MAX_POSITION = 2**63 - 1

Clock = Callable[[], datetime]
Randomness = Callable[[int], bytes]


def utc_now() -> datetime:
    """The clock of the real thing."""
    return datetime.now(UTC)


class SqliteLedger:
    """See `contract.Ledger`. `clock` gives UTC moments, `randomness(n)` n bytes; both are passed in for the tests.

    Opening needs a migrated file (`ledger.migrate`). `on_commit` gets each commit that appended an entry or made work due.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = utc_now,
        randomness: Randomness = os.urandom,
        on_commit: Callable[[Commit], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._randomness = randomness
        self._on_commit = on_commit
        self._writing = threading.Lock()
        if not path.exists():
            raise LedgerUnusable("ledger-missing", f"{path} {NOT_THERE}")
        self._writer = SqliteFile(path, writable=True)
        self._reader = SqliteFile(path, writable=False)
        rows = self._rows("SELECT value FROM meta WHERE name = 'ledger_id'")
        if not rows:
            raise LedgerUnusable("ledger-without-id", f"{path} holds no ledger_id: it was not made by `storage-ledger migrate`")
        self.ledger_id: str = rows[0][0]

    @contextmanager
    def write(self, *, within_s: float | None = None) -> Iterator[SqliteTransaction]:
        """See `contract.Ledger.write`."""
        asked_at = time.monotonic()
        if not self._writing.acquire(timeout=-1 if within_s is None else within_s):
            raise LedgerBusy("ledger-busy", "another process, or another thread of this one, has been writing for a long time")
        try:
            left_s = BUSY_TIMEOUT_S if within_s is None else max(0.0, within_s - (time.monotonic() - asked_at))
            with self._writer.transaction(within_s=left_s) as connection:
                transaction = SqliteTransaction(connection, self._clock, self._randomness)
                yield transaction
            if transaction.appended or transaction.due:
                self._on_commit(Commit(tuple(entry.kind for entry in transaction.appended), frozenset(transaction.due)))
            for then in transaction.then:
                then()
        finally:
            self._writing.release()

    def last(self) -> Entry | None:
        """See `contract.Ledger.last`."""
        return self._one("ORDER BY position DESC LIMIT 1")

    def get(self, position: int) -> Entry | None:
        """See `contract.Ledger.get`."""
        return self._one("WHERE position = ?", position)

    def read(self, after: int, limit: int) -> list[Entry]:
        """See `contract.Ledger.read`."""
        return self._entries("WHERE position > ? ORDER BY position LIMIT ?", after, limit)

    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        """See `contract.Ledger.scan`."""
        # Each is made when it is asked for: a list of them would be out of the processor's cache again before it is used.
        with self._reader.connection() as connection:
            yield from scanned(connection, SCAN, after, up_to, as_entry)

    def study(self, study_id: str) -> Iterator[Entry]:
        """See `contract.Ledger.study`."""
        return self._one_by_one("WHERE study_id = ? ORDER BY version", study_id)

    def naming_study(self, study_id: str) -> Iterator[Entry]:
        """See `contract.Ledger.naming_study`."""
        return self._one_by_one(f"WHERE {NAMING_STUDY} ORDER BY position", study_id)

    def open_outages(self) -> list[Entry]:
        """See `contract.Ledger.open_outages`."""
        found = self._entries(f"WHERE {OPEN_OUTAGES} ORDER BY position")
        return [entry for entry in found if not faults(entry) and understood(entry) is not None]

    def of_upload(self, upload_path: str) -> list[Entry]:
        """See `contract.Ledger.of_upload`."""
        return self._entries(f"WHERE {_UPLOAD_PATH} = ? ORDER BY position", upload_path)

    def has_kind(self, study_id: str, kind: str) -> bool:
        """See `contract.Ledger.has_kind`."""
        return bool(self._rows("SELECT 1 FROM entries WHERE study_id = ? AND kind = ? LIMIT 1", study_id, kind))

    def count_studies(self) -> int:
        """See `contract.Ledger.count_studies`."""
        return int(self._rows("SELECT count(*) FROM entries WHERE version = 1")[0][0])

    def studies_with_kind(self, kind: str, *, after: int = 0) -> list[str]:
        """See `contract.Ledger.studies_with_kind`."""
        sql = (
            "SELECT study_id FROM entries WHERE position > ? AND kind = ? AND study_id IS NOT NULL GROUP BY study_id ORDER BY min(position)"
        )
        return [row[0] for row in self._rows(sql, after, kind)]

    def first_of_studies(self, after: int, limit: int) -> list[tuple[int, str]]:
        """See `contract.Ledger.first_of_studies`."""
        sql = "SELECT position, study_id FROM entries WHERE position > ? AND version = 1 ORDER BY position LIMIT ?"
        return [(row[0], row[1]) for row in self._rows(sql, after, limit)]

    def of_no_study(self, kinds: Sequence[str], limit: int, *, before: int | None = None) -> Iterator[Entry]:
        """See `contract.Ledger.of_no_study`."""
        # Kind by kind, as the index has them: of several at once SQLite would sort all there ever were.
        where = "WHERE study_id IS NULL AND kind = ? AND position < ? ORDER BY position DESC"
        below = _MAX_POSITION if before is None else before
        newest = [self._one_by_one(where, kind, below) for kind in kinds]
        merged = newest[0] if len(newest) == 1 else merge(*newest, key=attrgetter("position"), reverse=True)
        yield from islice((each for each in merged if not faults(each)), limit)

    def due(
        self,
        stages: Sequence[Stage],
        *,
        limit: int,
        busy: Collection[int] = (),
        busy_studies: Collection[str] = (),
        up_to: int | None = None,
    ) -> list[WorkItem]:
        """See `contract.Ledger.due`."""
        sql = f"""SELECT p.stage, p.not_before, p.attempts, {_E_COLUMNS} FROM pending p JOIN entries e ON e.position = p.position
            WHERE p.stage IN ({", ".join("?" * len(stages))}) AND p.not_before <= ? AND p.position <= ?
              AND p.position NOT IN ({", ".join("?" * len(busy))})
              AND (e.study_id IS NULL OR e.study_id NOT IN ({", ".join("?" * len(busy_studies))}))
            ORDER BY p.not_before, p.position LIMIT ?"""  # noqa: S608 - only marks are put in
        most = _MAX_POSITION if up_to is None else up_to
        rows = self._rows(sql, *stages, rfc3339(self._clock()), most, *busy, *busy_studies, limit)
        return [WorkItem(Entry(*row[3:]), Stage(row[0]), row[1], row[2]) for row in rows if row[0] in _STAGES]

    def queue(self) -> list[QueueLength]:
        """See `contract.Ledger.queue`."""
        rows = self._rows(
            "SELECT q.stage, q.rows, e.recorded_at, q.next FROM (SELECT stage, count(*) AS rows, min(position) AS oldest, "
            "min(not_before) AS next FROM pending GROUP BY stage) q JOIN entries e ON e.position = q.oldest ORDER BY q.stage"
        )
        return [QueueLength(Stage(row[0]), *row[1:]) for row in rows if row[0] in _STAGES]

    def next_due(self, stages: Sequence[Stage]) -> str | None:
        """See `contract.Ledger.next_due`."""
        now = rfc3339(self._clock())
        sql = "SELECT min(not_before) FROM pending WHERE stage = ? AND not_before > ?"
        return min((row[0] for stage in stages for row in self._rows(sql, stage.value, now) if row[0]), default=None)

    def pending_of(self, study_id: str) -> list[WorkItem]:
        """See `contract.Ledger.pending_of`."""
        rows = self._rows(
            f"SELECT p.stage, p.not_before, p.attempts, {_E_COLUMNS} FROM entries e JOIN pending p ON e.position = p.position "  # noqa: S608 - constants
            "WHERE e.study_id = ? ORDER BY p.position",
            study_id,
        )
        return [WorkItem(Entry(*row[3:]), Stage(row[0]), row[1], row[2]) for row in rows if row[0] in _STAGES]

    def close(self) -> None:
        """See `contract.Ledger.close`."""
        self._reader.close()
        self._writer.close()

    def _one(self, where: str, *values: object) -> Entry | None:
        found = self._entries(where, *values)
        return found[0] if found else None

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return list(map(as_entry, self._rows(f"SELECT {COLUMNS} FROM entries {where}", *values)))  # noqa: S608 - constants

    def _rows(self, sql: str, *values: object) -> Sequence[Any]:
        with self._reader.connection() as connection:
            return fetched(connection, sql, values)

    def _one_by_one(self, where: str, *values: object) -> Iterator[Entry]:
        with self._reader.connection() as connection:
            yield from one_by_one(connection, f"SELECT {COLUMNS} FROM entries {where}", values, as_entry)  # noqa: S608 - constants


class SqliteTransaction:
    """See `contract.Transaction`. Position, version and time are read inside it, never cached: others append too."""

    def __init__(self, connection: Any, clock: Clock, randomness: Randomness) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._now = clock()
        self._now_text = rfc3339(self._now)
        self._randomness = randomness
        last = self._one("ORDER BY position DESC LIMIT 1")
        if last is not None and not has_whole_header(last):  # its time, for one, would be that of all to come
            text = f"the last entry, at position {last.position}, is not what its hash says. {RESTORE}"
            raise LedgerUnusable("ledger-damaged", text)
        self._position: int = last.position if last else 0
        # A clock that was set back must not make the log run backwards.
        self._time: str = max(self._now_text, last.recorded_at if last else "")
        self.appended: list[Entry] = []
        self.due: set[Stage] = set()
        self.then: list[Callable[[], None]] = []

    def append(self, new: NewEntry, *, due_in_s: float = 0.0, work_item: bool = True) -> Entry:
        """See `contract.Transaction.append`."""
        entry = self._seal(new)
        self._insert(entry)
        self._apply(new, entry.position, due_in_s=due_in_s, work_item=work_item)
        return entry

    def take_over(self, entry: Entry) -> None:
        """See `contract.Transaction.take_over`."""
        if entry.kind not in {kind.value for kind in Kind}:
            raise LedgerUnusable(
                "ledger-newer", f"the entry at position {entry.position} is of kind {entry.kind!r}, unknown to this program"
            )
        new = NewEntry(Kind(entry.kind), entry.data, entry.study_id, entry.cause)
        if new.kind is Kind.ARCHIVED and entry.cause is not None and (described := self._get(entry.cause)) is not None:
            said = DescribedPayload.of(described)
            upload = DescribedUpload(described.position, said.upload_path, said.raw_sha256)
            # As the placer does in the commit of the first `archived`.
            for position in self.pending_repeats(described.study_id or "", upload):
                self.drop(position, Stage.PLACE)
        self._insert(entry)
        study_id = new.payload.get("study_id") if new.kind is Kind.REJECTED else None
        self._apply(new, entry.position, due_in_s=0.0, work_item=study_id is None or not self.knows_study(study_id))
        if new.kind is Kind.STATUS_SENT and entry.recorded_at < later(self._now_text, -READ_BACK_WITHIN_S):
            self.drop(entry.position, Stage.CONFIRM)  # a million of them were read back long ago

    def _get(self, position: int) -> Entry | None:
        return self._one("WHERE position = ?", position)

    def _one(self, where: str, *values: object) -> Entry | None:
        found = self._entries(where, *values)
        return found[0] if found else None

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return list(map(as_entry, fetched(self._connection, f"SELECT {COLUMNS} FROM entries {where}", values)))  # noqa: S608 - constants

    def _insert(self, entry: Entry) -> None:
        self._sql(_INSERT, _row(entry))
        self._position, self._time = entry.position, entry.recorded_at
        self.appended.append(entry)

    def _apply(self, new: NewEntry, at: int, *, due_in_s: float, work_item: bool) -> None:
        changes = work_queue.changes(new)
        for position, stage in changes.drop:
            self.drop(position, stage)
        if changes.drop_confirms and new.study_id is not None:
            self._sql(
                "DELETE FROM pending WHERE stage = 'confirm' "
                "AND position IN (SELECT position FROM entries WHERE study_id = ? AND kind = ?)",
                (new.study_id, Kind.STATUS_SENT.value),
            )
        if work_item:
            for stage in changes.add:
                self._sql(
                    "INSERT INTO pending (position, stage, not_before, attempts) VALUES (?, ?, ?, 0)",
                    (at, stage.value, later(self._now_text, due_in_s) if due_in_s else self._now_text),
                )
                if not due_in_s:
                    self.due.add(stage)
            for position in changes.place_again:
                self.place_again(position)

    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        """See `contract.Transaction.pending_repeats`."""
        path = described.upload_path
        rows = self._sql(_TO_PLACE, (study_id, path)).fetchall()
        return repeats_of(described, (DescribedUpload(position, path, raw_sha256) for position, raw_sha256 in rows))

    def make_due(self, *, beyond_s: float) -> None:
        """See `contract.Transaction.make_due`."""
        now = self._now_text
        self.due.update(Stage)
        self._sql("UPDATE pending SET not_before = ? WHERE stage <> 'confirm' AND not_before > ?", (now, now))
        self._sql("UPDATE pending SET not_before = ? WHERE stage = 'confirm' AND not_before > ?", (now, later(now, beyond_s)))

    def study(self, study_id: str) -> Iterator[Entry]:
        """See `contract.Transaction.study`."""
        return one_by_one(self._connection, f"SELECT {COLUMNS} FROM entries WHERE study_id = ? ORDER BY version", (study_id,), as_entry)  # noqa: S608 - constants

    def knows_study(self, study_id: str) -> bool:
        """See `contract.Transaction.knows_study`."""
        return (
            self._sql("SELECT 1 FROM entries WHERE study_id = ? AND kind = ? LIMIT 1", (study_id, Kind.DESCRIBED.value)).fetchone()
            is not None
        )

    def is_pending(self, position: int, stage: Stage) -> bool:
        """See `contract.Transaction.is_pending`."""
        return self._sql("SELECT 1 FROM pending WHERE position = ? AND stage = ?", (position, stage.value)).fetchone() is not None

    def drop(self, position: int, stage: Stage) -> None:
        """See `contract.Transaction.drop`."""
        self._sql("DELETE FROM pending WHERE position = ? AND stage = ?", (position, stage.value))

    def postpone(self, position: int, stage: Stage, *, due_in_s: float, attempts: int) -> None:
        """See `contract.Transaction.postpone`."""
        self._sql(
            "UPDATE pending SET not_before = ?, attempts = ? WHERE position = ? AND stage = ?",
            (later(self._now_text, due_in_s), attempts, position, stage.value),
        )

    def is_retrying(self, stage: Stage) -> bool:
        """See `contract.Transaction.is_retrying`."""
        return self._sql("SELECT 1 FROM pending WHERE stage = ? AND attempts > 0 LIMIT 1", (stage.value,)).fetchone() is not None

    def on_commit(self, then: Callable[[], None]) -> None:
        """See `contract.Transaction.on_commit`."""
        self.then.append(then)

    def place_again(self, position: int) -> None:
        """See `contract.Transaction.place_again`."""
        self._again(position, Stage.PLACE)

    def remove_again(self, position: int) -> None:
        """See `contract.Transaction.remove_again`."""
        self._again(position, Stage.REMOVE)

    def is_settled(self, upload_path: str, position: int) -> bool:
        """See `contract.Transaction.is_settled`."""
        last, work_items = self._sql(
            f"SELECT max(e.position), count(p.position) FROM entries e "  # noqa: S608 - a constant
            f"LEFT JOIN pending p ON p.position = e.position AND p.stage IN ('place', 'remove') WHERE {_UPLOAD_PATH} = ?",
            (upload_path,),
        ).fetchone()
        return (last or 0) == position and work_items == 0

    def _again(self, position: int, stage: Stage) -> None:
        self._sql(
            "INSERT INTO pending (position, stage, not_before, attempts) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
            (position, stage.value, self._now_text),
        )
        self.due.add(stage)

    def _seal(self, new: NewEntry) -> Entry:
        version = None
        if new.study_id is not None:
            version = self._sql("SELECT coalesce(max(version), 0) + 1 FROM entries WHERE study_id = ?", (new.study_id,)).fetchone()[0]
        payload = canonical_json.dumps(new.payload)
        salt = self._randomness(16)
        fields: dict[str, Any] = {
            "position": self._position + 1,
            "entry_id": uuid7(int(self._now.timestamp() * 1000), self._randomness(10)),
            "study_id": new.study_id,
            "version": version,
            "kind": new.kind.value,
            "schema": CURRENT_SCHEMA,
            "recorded_at": self._time,
            "cause": new.cause,
            "payload_sha256": canonical_json.payload_sha256(salt, payload),
        }
        return Entry(**fields, payload=payload, salt=salt, leaf_hash=canonical_json.leaf_hash(fields))
