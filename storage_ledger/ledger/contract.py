"""What a ledger engine does. One suite of tests, tests/contract/test_ledger.py, holds every engine to it."""

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
    """Of one stage: how many rows, when the oldest of their entries was recorded, when the next is due (RFC 3339)."""

    stage: Stage
    rows: int
    oldest: str
    next_due: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction has made durable: the kind of each entry it appended, and the stages of which work has become due."""

    kinds: tuple[str, ...]
    due: frozenset[Stage]


class Transaction(Protocol):
    """Appends and their effect on the work queue; all of it or nothing."""

    def append(self, new: NewEntry, *, due_in_s: float = 0.0, work_item: bool = True) -> Entry:
        """Append one entry and apply `plan.changes`; new work items are due after `due_in_s`. Without `work_item` none is made."""
        ...

    def take_over(self, entry: Entry) -> None:
        """Append an entry as it was once written, with all its hashes, and apply `plan.changes`. It must be the next one.

        Work items whose end is no entry (`remove`, `confirm`) come back with it: their effects may be done twice. Read-backs
        only for statuses of the last day.
        """
        ...

    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        """Positions of the pending(place) entries of this study that the outcome of `described` answers too: see `repeats_of`."""
        ...

    def make_due(self, *, beyond_s: float) -> None:
        """What was put off is due now; read-backs only if they lie more than `beyond_s` ahead (a clock was set back)."""
        ...

    def study(self, study_id: str) -> Iterator[Entry]:
        """All entries of a study, in order, one by one, with those of this transaction; nobody else appends before it ends.

        Take them before the next call on this transaction.
        """
        ...

    def knows_study(self, study_id: str) -> bool:
        """Whether there is a `described` entry of it."""
        ...

    def is_pending(self, position: int, stage: Stage) -> bool:
        """Whether that work item still exists: another process may have ended it."""
        ...

    def drop(self, position: int, stage: Stage) -> None:
        """Its effect is durable: nobody has to care any more. Nothing happens if it is gone."""
        ...

    def postpone(self, position: int, stage: Stage, *, due_in_s: float, attempts: int) -> None:
        """Try again later. Nothing happens if it is gone."""
        ...

    def is_retrying(self, stage: Stage) -> bool:
        """Whether any work item of that stage has failed before."""
        ...

    def on_commit(self, then: Callable[[], None]) -> None:
        """Call `then` once this transaction is durable, and not at all if it is not."""
        ...

    def add_work_item(self, position: int, stage: Stage) -> None:
        """Have an entry placed or removed once more, due now. Nothing happens if that work item still exists."""
        ...

    def is_settled(self, upload_path: str, position: int) -> bool:
        """Whether `position` (0: none) is still the last entry that names this upload, and none of them has to be placed or removed."""
        ...


class IndexSource(Protocol):
    """What an index is made from: a `Ledger`, or the entries of one that can be believed."""

    ledger_id: str

    def last(self) -> Entry | None:
        """The entry at the end."""
        ...

    def get(self, position: int) -> Entry | None:
        """One entry."""
        ...

    def read(self, after: int, limit: int) -> list[Entry]:
        """Up to `limit` entries beyond position `after`, in order."""
        ...

    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        """The entries beyond position `after`, up to `up_to`, in order, one by one, as of one moment.

        Keep it short: until the last one is taken nothing that was appended meanwhile gets out of SQLite's log.
        """
        ...

    def study(self, study_id: str) -> Iterator[Entry]:
        """All entries of a study, in order, one by one, as of one moment: a study may have been described a thousand times.

        Take them without waiting for anything else in between, as for `scan`: until the last one is taken, or the iterator is
        closed, a connection is in use and SQLite's log cannot shrink.
        """
        ...


class Ledger(IndexSource, Protocol):
    """The log. Safe to use from several threads; several processes may append to the same one."""

    def write(self, *, within_s: float | None = None) -> AbstractContextManager[Transaction]:
        """A transaction; durable when the `with` ends, nothing of it is there when it raises.

        Raises `LedgerBusy` (nothing committed, try again) or `LedgerUnusable` (stop the service). `within_s`: how long to wait
        for other writers before it raises `LedgerBusy`; the engine's own patience unless given.
        """
        ...

    def naming_study(self, study_id: str) -> Iterator[Entry]:
        """Entries without study_id whose payload names this one (a rejected message, what was told of it), in order. As `study`."""
        ...

    def open_outages(self) -> list[Entry]:
        """The entries `failed` without study_id that no `recovered` has for its cause, in order; none damaged, and only objects."""
        ...

    def of_upload(self, upload_path: str) -> list[Entry]:
        """All entries that name this upload, of whatever study, in order."""
        ...

    def has_kind(self, study_id: str, kind: str) -> bool:
        """Whether the study has an entry of that kind; reads no payload."""
        ...

    def count_studies(self) -> int:
        """How many studies were ever described."""
        ...

    def studies_with_kind(self, kind: str, *, after: int = 0) -> list[str]:
        """The studies that have an entry of that kind beyond position `after`, in the order of their first one.

        Reads every row beyond `after`.
        """
        ...

    def first_of_studies(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Up to `limit` studies whose first entry lies beyond position `after`, with that position, in order; reads no payload."""
        ...

    def of_no_study(self, kinds: Sequence[str], limit: int, *, before: int | None = None) -> Iterator[Entry]:
        """The newest `limit` without study_id of these kinds (below position `before`), newest first; the damaged do not count.

        Take them as those of `study`.
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
        """Work items that are due now, longest due first, without those positions and studies, of positions up to `up_to`."""
        ...

    def queue(self) -> list[QueueLength]:
        """The work queue, stage by stage; stages without rows are left out."""
        ...

    def next_due(self, stages: Sequence[Stage]) -> str | None:
        """When the next work item becomes due that is not due yet (RFC 3339)."""
        ...

    def pending_of(self, study_id: str) -> list[WorkItem]:
        """The work items of one study."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...
