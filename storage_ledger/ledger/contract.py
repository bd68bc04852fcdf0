"""What a ledger engine does. One suite of tests, tests/contract/ledger/test_ledger.py, holds every engine to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from storage_ledger.domain.entries import Entry, NewEntry
from storage_ledger.domain.redeliveries import DescribedUpload
from storage_ledger.domain.work_queue import Stage


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One row of the work queue with the entry that it belongs to. `attempts`: how many failed."""

    entry: Entry
    stage: Stage
    not_before: str
    attempts: int


@dataclass(frozen=True, slots=True)
class QueueLength:
    """Of one stage: how many rows, when the oldest of their entries was recorded, and when the next is due (RFC 3339)."""

    stage: Stage
    rows: int
    oldest: str
    next_due: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction has made durable: the kind of each entry it appended, and the stages that have work due now."""

    kinds: tuple[str, ...]
    due: frozenset[Stage]


class Transaction(Protocol):
    """Appends and their effect on the work queue. All of it becomes durable, or none."""

    def append(self, new: NewEntry, *, due_in_s: float = 0.0, work_item: bool = True) -> Entry:
        """Append one entry and apply its `work_queue.changes`. New work items are due after `due_in_s` seconds; no `work_item`, none."""
        ...

    def take_over(self, entry: Entry) -> None:
        """Append an entry exactly as it was recorded before, hashes included, and apply its `work_queue.changes`.

        It must be the next one. Work items that end without an entry (`remove`, `confirm`) come back with it, so their effects may
        be done twice; a status is read back only if it is less than a day old. Raises `LedgerUnusable` for an unknown kind.
        """
        ...

    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        """Positions of the pending(place) entries of this study that the outcome of `described` answers too: see `repeats_of`."""
        ...

    def make_due(self, *, beyond_s: float) -> None:
        """Make everything that was postponed due now; read-backs only if they are due in more than `beyond_s` (the clock was set back)."""
        ...

    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        """The entries of a study beyond version `after`, in order, including those of this transaction.

        They are read as they are taken. Take them all before the next call on this transaction.
        """
        ...

    def knows_study(self, study_id: str) -> bool:
        """Whether the study has a `described` entry."""
        ...

    def is_pending(self, position: int, stage: Stage) -> bool:
        """Whether that work item still exists; another process may have finished it."""
        ...

    def drop(self, position: int, stage: Stage) -> None:
        """Remove a work item whose effect is durable. Nothing happens if it is gone already."""
        ...

    def postpone(self, position: int, stage: Stage, *, due_in_s: float, attempts: int) -> None:
        """Try a work item again in `due_in_s` seconds. Nothing happens if it is gone already."""
        ...

    def is_retrying(self, stage: Stage) -> bool:
        """Whether any work item of that stage has failed at least once."""
        ...

    def on_commit(self, then: Callable[[], None]) -> None:
        """Call `then` once this transaction is durable. It is never called if the transaction fails."""
        ...

    def add_work_item(self, position: int, stage: Stage) -> None:
        """Have an entry placed or removed once more, due now. Nothing happens if that work item still exists."""
        ...

    def is_settled(self, upload_path: str, position: int) -> bool:
        """Whether `position` (0: none) is still the last entry that names this upload, and none of them has to be placed or removed."""
        ...


class IndexSource(Protocol):
    """What an index is built from: a `Ledger`, or those entries of one that are whole."""

    ledger_id: str

    def last(self) -> Entry | None:
        """The last entry; None for an empty ledger."""
        ...

    def get(self, position: int) -> Entry | None:
        """The entry at this position, if there is one."""
        ...

    def read(self, after: int, limit: int) -> list[Entry]:
        """Up to `limit` entries beyond position `after`, in order."""
        ...

    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        """The entries beyond position `after` up to `up_to`, in order, as of one moment.

        They are read as they are taken. Take them without a pause: until the last one is taken or the iterator is closed, a
        connection is in use and SQLite's WAL cannot shrink.
        """
        ...

    def study(self, study_id: str) -> Iterator[Entry]:
        """All entries of a study, in order, as of one moment. Take them without a pause, as for `scan`."""
        ...


class Ledger(IndexSource, Protocol):
    """The log. Safe to use from several threads; several processes may append to the same one."""

    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        """The entries of a study beyond version `after`, in order, as of one moment. Take them without a pause, as for `scan`.

        Versions of a study follow each other without a gap, so whoever keeps its fold can read on from the last one it has.
        """
        ...

    def write(self, *, within_s: float | None = None) -> AbstractContextManager[Transaction]:
        """A transaction: durable when the `with` ends, rolled back when it raises.

        Raises `LedgerBusy` (nothing was committed, try again), `LedgerRefused` (nothing was committed, a bug or a changed schema)
        or `LedgerUnusable` (stop the service). `within_s`: how long to wait for other writers before it raises `LedgerBusy`; the
        engine's own timeout unless given.
        """
        ...

    def naming_study(self, study_id: str) -> Iterator[Entry]:
        """Entries without study_id whose payload names this study (a rejected message, its status), in order. Taken as for `scan`."""
        ...

    def open_outages(self) -> list[Entry]:
        """The `failed` entries without study_id that are the cause of no `recovered`, in order. Damaged ones are left out."""
        ...

    def of_upload(self, upload_path: str) -> list[Entry]:
        """All entries that name this upload, of any study, in order."""
        ...

    def is_pending(self, position: int, stage: Stage) -> bool:
        """Whether that work item exists."""
        ...

    def is_upload_waiting(self, upload_path: str) -> bool:
        """Whether an entry that names this upload, of whatever study, has a work item to place or to remove it; reads no payload."""
        ...

    def has_kind(self, study_id: str, kind: str) -> bool:
        """Whether the study has an entry of this kind. Reads no payload."""
        ...

    def count_studies(self) -> int:
        """How many studies the ledger knows."""
        ...

    def studies_with_kind(self, kind: str, *, after: int = 0) -> list[str]:
        """The studies that have an entry of this kind beyond position `after`, ordered by the first of them.

        Reads every row beyond `after`.
        """
        ...

    def first_of_studies(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Up to `limit` studies whose first entry is beyond position `after`, with that position, in order. Reads no payload."""
        ...

    def of_no_study(self, kinds: Sequence[str], limit: int, *, before: int | None = None) -> Iterator[Entry]:
        """Up to `limit` entries without study_id of these kinds (below position `before`), newest first.

        Damaged ones are left out and do not count. Taken as for `scan`.
        """
        ...

    def due(
        self,
        stages: Sequence[Stage],
        *,
        limit: int,
        busy: Collection[int] = (),
        busy_studies: Collection[str] = (),
        up_to: int | None = None,
    ) -> list[WorkItem]:
        """Work items that are due now, longest due first, for positions up to `up_to`. `busy` positions and studies are left out."""
        ...

    def queue(self) -> list[QueueLength]:
        """The length of the work queue, stage by stage; a stage without work is left out."""
        ...

    def next_due(self, stages: Sequence[Stage]) -> str | None:
        """When the next work item that is not due yet becomes due (RFC 3339)."""
        ...

    def pending_of(self, study_id: str) -> list[WorkItem]:
        """The work items of one study."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...
