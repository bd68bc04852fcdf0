"""Appends to the ledger's database, with their changes to the work queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from typing_extensions import override

from storage_ledger.domain import canonical_json, work_queue
from storage_ledger.domain.entries import CURRENT_SCHEMA, Entry, Kind, NewEntry, has_whole_header
from storage_ledger.domain.ids import later, rfc3339, uuid7
from storage_ledger.domain.payloads import DescribedPayload, UnreadablePayload
from storage_ledger.domain.redeliveries import DescribedUpload, repeats_of
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Transaction
from storage_ledger.ledger.dialect import Dialect
from storage_ledger.ledger.entry_rows import COLUMNS, as_entry
from storage_ledger.system.clock import Clock
from storage_ledger.system.sqlite import RESTORE

MOVED_TO = "moved_to"
"""The row of `meta` of a ledger that continues elsewhere."""
TERM = "term"
"""The row of `meta` that changes with each start of `serve`, on an engine that several hosts can reach."""
MARKS = "SELECT name, value FROM meta WHERE name IN (?, ?)"
LAST = "ORDER BY position DESC LIMIT 1"
READ_BACK_WITHIN_S = 86_400.0
Randomness = Callable[[int], bytes]

_row = attrgetter(*Entry._fields)
_INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join('?' * len(Entry._fields))})"  # noqa: S608 - constants


class SqlTransaction(Transaction):
    """One transaction, whose connection holds the write lock. It always re-reads position, version and time: other processes append, too.

    `connection.execute(statement, values)` takes a statement with `?` for each value, and returns a cursor.
    """

    def __init__(self, connection: Any, dialect: Dialect, clock: Clock, randomness: Randomness) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._dialect = dialect
        self._now = clock()
        self._now_text = rfc3339(self._now)
        self._randomness = randomness
        self.marks: dict[str, str] = {}
        """What `meta` notes of `MOVED_TO` and `TERM`."""
        last = self._first_read()
        if last is not None and not has_whole_header(last):  # a damaged timestamp would be carried into every later entry
            text = f"the last entry, at position {last.position}, does not match its hash. {RESTORE}"
            raise LedgerUnusable("ledger-damaged", text)
        self._position: int = last.position if last else 0
        # Times never decrease, even if the clock was set back.
        self._time: str = max(self._now_text, last.recorded_at if last else "")
        self.appended: list[Entry] = []
        """What this transaction has appended."""
        self.due: set[Stage] = set()
        self.then: list[Callable[[], None]] = []

    @override
    def append(self, new: NewEntry, *, due_in_s: float = 0.0, work_item: bool = True) -> Entry:
        entry = self._seal(new)
        self._insert(entry)
        self._apply(new, entry.position, due_in_s=due_in_s, work_item=work_item)
        return entry

    @override
    def expect(self, studies: Collection[str], placed: Mapping[int, str] = MappingProxyType({})) -> None:
        pass

    @override
    def take_over(self, entry: Entry) -> None:
        if entry.kind not in {kind.value for kind in Kind}:
            raise LedgerUnusable(
                "ledger-newer", f"the entry at position {entry.position} is of kind {entry.kind!r}, unknown to this program"
            )
        new = NewEntry(Kind(entry.kind), entry.data, entry.study_id, entry.cause)
        if new.kind is Kind.ARCHIVED and entry.cause is not None and (described := self._get(entry.cause)) is not None:
            # The placer did this in the commit of the first `archived`. An unreadable payload does not say what it repeats.
            with suppress(UnreadablePayload):
                said = DescribedPayload.of(described)
                upload = DescribedUpload(described.position, said.upload_path, said.raw_sha256)
                for position in self.pending_repeats(described.study_id or "", upload):
                    self.drop(position, Stage.PLACE)
        self._insert(entry)
        study_id = new.payload.get("study_id") if new.kind is Kind.REJECTED else None
        self._apply(new, entry.position, due_in_s=0.0, work_item=study_id is None or not self.knows_study(study_id))
        if new.kind is Kind.STATUS_SENT and entry.recorded_at < later(self._now_text, -READ_BACK_WITHIN_S):
            self.drop(entry.position, Stage.CONFIRM)  # old statuses were read back long ago

    def copy(self, entries: Sequence[Entry]) -> None:
        """Append entries as they are in another copy of this ledger; leave the work queue alone. They have the next positions."""
        for entry in entries:
            self._sql(_INSERT, _row(entry))
        self._position, self._time = entries[-1].position, entries[-1].recorded_at

    def set_work_queue(self, rows: Sequence[tuple[int, str, str, int]]) -> None:
        """Replace the work queue with these rows: position, stage, not_before, attempts."""
        self._sql("DELETE FROM pending")
        for row in rows:
            self._sql("INSERT INTO pending (position, stage, not_before, attempts) VALUES (?, ?, ?, ?)", row)

    def note_moved(self, address: str | None) -> None:
        """Mark this ledger as moved to `address`, so that nobody appends to it; None: it is in use again."""
        self._sql("DELETE FROM meta WHERE name = ?", (MOVED_TO,))
        if address is not None:
            self._sql("INSERT INTO meta (name, value) VALUES (?, ?)", (MOVED_TO, address))

    @property
    def is_empty(self) -> bool:
        """Whether the ledger has no entries."""
        return self._position == 0

    def _first_read(self) -> Entry | None:
        """Read `marks`, and return the last entry."""
        self.marks = dict(self._sql(MARKS, (MOVED_TO, TERM)).fetchall())
        return self._one(LAST)

    def _all(self, sql: str, values: Sequence[object]) -> Sequence[Any]:
        rows: list[Any] = self._sql(sql, values).fetchall()
        return rows

    def _get(self, position: int) -> Entry | None:
        return self._one("WHERE position = ?", position)

    def _one(self, where: str, *values: object) -> Entry | None:
        found = self._entries(where, *values)
        return found[0] if found else None

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return list(map(as_entry, self._all(f"SELECT {COLUMNS} FROM entries {where}", values)))  # noqa: S608 - constants

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
                self.add_work_item(position, Stage.PLACE)

    @override
    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        path = described.upload_path
        waiting: dict[int, str] = dict(self._sql(self._dialect.to_place, (study_id, path)).fetchall())
        between = (described.position, max(waiting, default=0))
        answered: dict[int, str] = (
            dict(self._sql(self._dialect.answered, (study_id, path, *between)).fetchall()) if between[0] < between[1] else {}
        )
        others = (DescribedUpload(position, path, raw_sha256) for position, raw_sha256 in sorted((waiting | answered).items()))
        return [position for position in repeats_of(described, others) if position in waiting]

    @override
    def make_due(self, *, beyond_s: float) -> None:
        now = self._now_text
        self.due.update(Stage)
        self._sql("UPDATE pending SET not_before = ? WHERE stage <> 'confirm' AND not_before > ?", (now, now))
        self._sql("UPDATE pending SET not_before = ? WHERE stage = 'confirm' AND not_before > ?", (now, later(now, beyond_s)))

    @override
    def knows_study(self, study_id: str) -> bool:
        return (
            self._sql("SELECT 1 FROM entries WHERE study_id = ? AND kind = ? LIMIT 1", (study_id, Kind.DESCRIBED.value)).fetchone()
            is not None
        )

    @override
    def is_pending(self, position: int, stage: Stage) -> bool:
        return self._sql("SELECT 1 FROM pending WHERE position = ? AND stage = ?", (position, stage.value)).fetchone() is not None

    @override
    def drop(self, position: int, stage: Stage) -> None:
        self._sql("DELETE FROM pending WHERE position = ? AND stage = ?", (position, stage.value))

    @override
    def postpone(self, position: int, stage: Stage, *, due_in_s: float, attempts: int) -> None:
        self._sql(
            "UPDATE pending SET not_before = ?, attempts = ? WHERE position = ? AND stage = ?",
            (later(self._now_text, due_in_s), attempts, position, stage.value),
        )

    @override
    def is_retrying(self, stage: Stage) -> bool:
        return self._sql("SELECT 1 FROM pending WHERE stage = ? AND attempts > 0 LIMIT 1", (stage.value,)).fetchone() is not None

    @override
    def on_commit(self, then: Callable[[], None]) -> None:
        self.then.append(then)

    @override
    def add_work_item(self, position: int, stage: Stage) -> None:
        self._sql(
            "INSERT INTO pending (position, stage, not_before, attempts) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
            (position, stage.value, self._now_text),
        )
        self.due.add(stage)

    @override
    def is_settled(self, upload_path: str, position: int) -> bool:
        last, work_items = self._sql(self._dialect.last_and_waiting, (upload_path,)).fetchone()
        return (last or 0) == position and work_items == 0

    def _last_version(self, study_id: str) -> int:
        version: int = self._sql("SELECT coalesce(max(version), 0) FROM entries WHERE study_id = ?", (study_id,)).fetchone()[0]
        return version

    def _seal(self, new: NewEntry) -> Entry:
        version = None
        if new.study_id is not None:
            version = self._last_version(new.study_id) + 1
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
