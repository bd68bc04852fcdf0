"""The interface of a ledger engine. Every engine must pass tests/contract/ledger/test_ledger.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from storage_ledger.domain.entries import Entry, NewEntry
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.redeliveries import DescribedUpload
from storage_ledger.domain.share import Share
from storage_ledger.domain.work_queue import Stage


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One row of the work queue, with its entry. `attempts` counts the failed ones; `not_before` is RFC 3339."""

    entry: Entry
    stage: Stage
    not_before: str
    attempts: int


@dataclass(frozen=True, slots=True)
class QueueLength:
    """The work queue of one stage: its rows, when the oldest of their entries was recorded, and when the next is due (RFC 3339)."""

    stage: Stage
    rows: int
    oldest: str
    next_due: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction made durable: the kinds of the appended entries, and the stages that now have work due."""

    kinds: tuple[str, ...]
    due: frozenset[Stage]


class Transaction(Protocol):
    """Appends entries and changes the work queue, atomically."""

    def append(self, new: NewEntry, *, due_in_s: float = 0.0, work_item: bool = True) -> Entry:
        """Append one entry and apply its `work_queue.changes`. Work items are due in `due_in_s`; without `work_item` none are added."""
        ...

    def expect(self, studies: Collection[str], placed: Mapping[int, str] = MappingProxyType({})) -> None:
        """Say which studies the next calls are about: an engine that is far away then reads at once what it needs of them.

        `placed`: positions of entries that were to be placed, each with its upload.
        """
        ...

    def take_over(self, entry: Entry) -> None:
        """Append an entry exactly as it was recorded before, hashes included, and apply its `work_queue.changes`.

        It must have the next position. Work items that end without an entry (`remove`, `confirm`) are added again, so their effects may
        happen twice; a status is read back only if it is less than a day old. Raises `LedgerUnusable` for an unknown kind.
        """
        ...

    def pending_repeats(self, study_id: str, described: DescribedUpload) -> list[int]:
        """Return the positions of the study's pending(place) entries that `described` also completes: see `repeats_of`."""
        ...

    def make_due(self, *, beyond_s: float) -> None:
        """Make all postponed work due now. Read-backs only if due in more than `beyond_s`: then the clock was set back."""
        ...

    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        """Iterate over a study's entries beyond version `after`, in order, including those of this transaction.

        Rows are read lazily: consume the iterator before the next call on this transaction.
        """
        ...

    def knows_study(self, study_id: str) -> bool:
        """Return whether the study has a `described` entry."""
        ...

    def is_pending(self, position: int, stage: Stage) -> bool:
        """Return whether the work item still exists; another process may have finished it."""
        ...

    def drop(self, position: int, stage: Stage) -> None:
        """Remove a work item whose effect is durable. Does nothing if it is gone."""
        ...

    def postpone(self, position: int, stage: Stage, *, due_in_s: float, attempts: int) -> None:
        """Retry a work item in `due_in_s` seconds. Does nothing if it is gone."""
        ...

    def is_retrying(self, stage: Stage) -> bool:
        """Return whether any work item of the stage has failed at least once."""
        ...

    def on_commit(self, then: Callable[[], None]) -> None:
        """Call `then` once this transaction is durable; never if it fails."""
        ...

    def add_work_item(self, position: int, stage: Stage) -> None:
        """Queue an entry to be placed or removed again, due now. Does nothing if the work item exists."""
        ...

    def is_settled(self, upload_path: str, position: int) -> bool:
        """Return whether `position` (0: none) is still the last entry for this upload, and no work is pending for it."""
        ...


class IndexSource(Protocol):
    """The source of an index: a `Ledger`, or its undamaged entries."""

    ledger_id: str

    def last(self) -> Entry | None:
        """Return the last entry, or None for an empty ledger."""
        ...

    def get(self, position: int) -> Entry | None:
        """Return the entry at this position, or None."""
        ...

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries beyond position `after`, in order."""
        ...

    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        """Iterate over the entries beyond position `after` up to `up_to`, in order, from one snapshot.

        Rows are read lazily. Consume or close the iterator soon: until then it keeps a connection and SQLite cannot shrink its WAL.
        """
        ...

    def study(self, study_id: str) -> Iterator[Entry]:
        """Iterate over all entries of a study, in order, from one snapshot; lazily, as `scan` does."""
        ...


class Ledger(IndexSource, Protocol):
    """The ledger. Thread-safe; several processes may append to the same file."""

    def study(self, study_id: str, *, after: int = 0) -> Iterator[Entry]:
        """Iterate over a study's entries beyond version `after`, in order, from one snapshot; lazily, as `scan` does.

        A study's versions have no gaps, so a caller that keeps its fold can continue after the last version it has.
        """
        ...

    def write(self, *, within_s: float | None = None) -> AbstractContextManager[Transaction]:
        """Open a transaction. It is durable when the `with` block ends, and rolled back if the block raises.

        Raises `LedgerBusy` (nothing was committed: retry), `LedgerRefused` (nothing was committed: a bug or a changed schema) or
        `LedgerUnusable` (stop the service). It waits up to `within_s` for other writers, by default the engine's own timeout.
        """
        ...

    def leaf_hashes(self, after: int, up_to: int) -> Iterator[bytes]:
        """Iterate over the leaf hashes beyond position `after` up to `up_to`, in order, from one snapshot; lazily, as `scan` does."""
        ...

    def naming_study(self, study_id: str) -> Iterator[Entry]:
        """Iterate over entries without study_id whose payload names this study (a rejected message, its status), as `scan` does."""
        ...

    def open_outages(self) -> list[Entry]:
        """Return the `failed` entries without study_id that no `recovered` has as its cause, in order, without damaged ones."""
        ...

    def of_upload(self, upload_path: str) -> list[Entry]:
        """Return all entries for this upload, of any study, in order."""
        ...

    def is_pending(self, position: int, stage: Stage) -> bool:
        """Return whether the work item exists."""
        ...

    def is_upload_waiting(self, upload_path: str) -> bool:
        """Return whether work to place or remove this upload is pending, for any study. Reads no payload."""
        ...

    def has_kind(self, study_id: str, kind: str) -> bool:
        """Return whether the study has an entry of this kind. Reads no payload."""
        ...

    def count_studies(self, *, after: int = 0) -> int:
        """Return the number of studies whose first entry is beyond position `after`. Reads every row beyond it."""
        ...

    def studies_with_kind(self, kind: str, *, after: int = 0) -> list[str]:
        """Return the studies with an entry of this kind beyond position `after`, in the order of those entries.

        Reads every row beyond `after`.
        """
        ...

    def studies_beginning(self, prefix: str, limit: int) -> list[str]:
        """Return up to `limit` studies whose study_id begins with this non-empty prefix, in alphabetical order. Reads no payload."""
        ...

    def first_of_studies(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Return up to `limit` studies whose first entry is beyond `after`, each with that position, in order. Reads no payload."""
        ...

    def of_no_study(self, kinds: Sequence[str], limit: int, *, before: int | None = None) -> Iterator[Entry]:
        """Iterate over up to `limit` entries of these kinds without study_id, below position `before`, newest first.

        Damaged entries are skipped. Read lazily, as `scan` does.
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
        share: Share | None = None,
    ) -> list[WorkItem]:
        """Return due work items for positions up to `up_to`, longest due first, without `busy` positions and studies.

        `share`: only those of the studies in it.
        """
        ...

    def queue(self) -> list[QueueLength]:
        """Return the length of the work queue for each stage that has work."""
        ...

    def next_due(self, stages: Sequence[Stage], *, share: Share | None = None) -> str | None:
        """Return when the next postponed work item becomes due (RFC 3339), or None. `share`: only of the studies in it."""
        ...

    def pending_of(self, study_id: str) -> list[WorkItem]:
        """Return the work items of one study."""
        ...

    def metadata_synced(self) -> int:
        """Return the position up to which every metadata.json is known to be durable; 0 if that is unknown."""
        ...

    def studies_with_unsynced_metadata(self) -> list[str]:
        """Return the studies whose metadata.json a power cut may have damaged.

        They have a file that was archived beyond that position, or an earlier one and now another to place. Reads every row beyond it.
        """
        ...

    def note_metadata_synced(self, position: int) -> None:
        """Record that position. Durable on return. Raises as `write` does."""
        ...

    def last_backup(self) -> LastBackup | None:
        """Return the last backup that was noted; None if there is none."""
        ...

    def note_backup(self, backup: LastBackup) -> None:
        """Record a backup, in place of the one before. Durable on return. Raises as `write` does."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...
