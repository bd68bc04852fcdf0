"""Payloads about the work of the steps: `failed`, `recovered`, `quarantined` and `status-sent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class FailedPayload(Payload):
    """An attempt failed and will be retried, or an outage begins.

    Appended by the steps place, remove and notify (stage `tell`). For one work item: at attempt 1, 10, 100 …, and once if it
    [hangs](error-codes.md#retries). Cause: the entry of the work item; `study_id` is NULL if the status of a
    rejected message could not be sent. For an [outage](error-codes.md#outages): once when it begins, without `study_id` and cause.
    """

    KIND: ClassVar = Kind.FAILED
    step: str
    """`place`, `remove` or `tell`."""
    code: str
    """An error code of [retries](error-codes.md#retries) or [outages](error-codes.md#outages)."""
    detail: str
    """Human-readable."""
    errno: int | None
    """Of the failed system call."""
    attempt: int
    """From 1."""
    retry_at: str | None
    """When the next attempt is due; null if this one has not returned (`hangs`)."""
    upload_path: str | None = None
    """For one work item of `place` or `remove`."""

    def entry(self, study_id: str | None, *, cause: int) -> NewEntry:
        """Return the entry to append for one work item, the one that the entry at `cause` added. `study_id`: None if that is `rejected`."""
        return NewEntry(self.KIND, self.stored(), study_id, cause)

    def entry_of_outage(self) -> NewEntry:
        """Return the entry to append for a cause that all work items share."""
        return NewEntry(self.KIND, self.stored())


@dataclass(frozen=True, slots=True)
class RecoveredPayload(Payload):
    """An outage has ended.

    Appended by the step that had stopped, once the cause has been gone for long enough or no work is left. `study_id`: NULL. Cause: the
    `failed` entry that began the outage.
    """

    KIND: ClassVar = Kind.RECOVERED
    step: str
    """As in `failed`."""
    code: str
    """As in `failed`."""

    def entry(self, *, failed: int) -> NewEntry:
        """Return the entry to append. `failed`: position of the entry that began the outage."""
        return NewEntry(self.KIND, self.stored(), cause=failed)


@dataclass(frozen=True, slots=True)
class QuarantinedPayload(Payload):
    """The file cannot be archived until a person or a redelivery changes something.

    Appended by the place step. Cause: the `described` entry.
    """

    KIND: ClassVar = Kind.QUARANTINED
    code: str
    """An [error code](error-codes.md#quarantined-files)."""
    detail: str
    """Human-readable."""
    upload_path: str
    """As in `described`."""
    by: str
    """`projector`."""

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """Return the entry to append. `described`: position of the `described` entry that named the file."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class StatusSentPayload(Payload):
    """The Status Service accepted a status.

    Appended by the notify step, or by `storage-ledger replay --statuses`. `study_id`: NULL for a rejected message. Cause: the last entry
    that the status is about; for a re-sent status, the `status-sent` entry that was lost, or the last outcome if no status was ever sent.
    """

    KIND: ClassVar = Kind.STATUS_SENT
    status: str
    """`archived` or `failed`."""
    http_status: int
    """Of the answer: 200 to 299."""
    attempts: int
    """Number of calls, including this one."""
    tells: list[int]
    """Positions of the outcomes that this status reports; empty if it was re-sent."""
    reason: str | None = None
    """`overwritten`: re-sent, because the status read back was `described` or missing."""
    study_id: str | None = None
    """Of a rejected message."""
    error: str | None = None
    """Of a rejected message: the reason that was sent."""

    def entry(self, study_id: str | None, *, cause: int) -> NewEntry:
        """Return the entry to append. `study_id`: None for a rejected message; `cause`: the last entry that the status is about."""
        return NewEntry(self.KIND, self.stored(), study_id, cause)
