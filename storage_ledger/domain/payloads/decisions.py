"""Payloads of manual decisions: `released`, `discarded` and `acknowledged`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class ReleasedPayload(Payload):
    """A person decided to retry a quarantined file.

    Appended by `storage-ledger quarantine retry`. Cause: the `quarantined` entry.
    """

    KIND: ClassVar = Kind.RELEASED
    upload_path: str
    """As in `quarantined`."""
    code: str
    """As in `quarantined`."""
    by: str
    """Who decided; up to 100 characters."""
    reason: str
    """Why; one line of up to 1000 characters."""
    described: int
    """Position of the upload's last `described` entry, which is retried."""

    def entry(self, study_id: str, *, quarantined: int) -> NewEntry:
        """Return the entry to append. `quarantined`: position of the entry that this answers."""
        return NewEntry(self.KIND, self.stored(), study_id, quarantined)


@dataclass(frozen=True, slots=True)
class DiscardedPayload(Payload):
    """A person decided to give up a quarantined file.

    Appended by `storage-ledger quarantine discard`. Cause: the `quarantined` entry. The upload is left alone until a redelivery.
    """

    KIND: ClassVar = Kind.DISCARDED
    upload_path: str
    """As in `quarantined`."""
    code: str
    """As in `quarantined`."""
    by: str
    """As in `released`."""
    reason: str
    """As in `released`."""

    def entry(self, study_id: str, *, quarantined: int) -> NewEntry:
        """Return the entry to append. `quarantined`: position of the entry that this answers."""
        return NewEntry(self.KIND, self.stored(), study_id, quarantined)


@dataclass(frozen=True, slots=True)
class AcknowledgedPayload(Payload):
    """A person acknowledged something that cannot be undone; it is no longer reported.

    Appended by `storage-ledger acknowledge`. `study_id` and cause: NULL.
    """

    KIND: ClassVar = Kind.ACKNOWLEDGED
    code: str
    """What was acknowledged: `clock-ahead`, or `checkpoint-forked`: the ledger does not continue `checkpoints`."""
    by: str
    """As in `released`."""
    reason: str
    """As in `released`: why it happened, or what was done."""
    ledger_time: str
    """The ledger's last time. A later one ahead of the clock is reported again."""
    clock: str
    """The time on the clock."""
    checkpoints: list[str] | None = None
    """With `checkpoint-forked`: the [texts](https://c2sp.org/tlog-checkpoint) of the contradicted checkpoints, the largest first."""

    def entry(self) -> NewEntry:
        """Return the entry to append."""
        return NewEntry(self.KIND, self.stored())
