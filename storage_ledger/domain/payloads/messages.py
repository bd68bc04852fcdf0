"""Payloads of what arrives: `described` and `rejected`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class DescribedPayload(Payload):
    """A message says that a file is waiting in uploads.

    Appended by intake, once per message, before anything else is done; by the reconciler for a file whose message was lost; or by `adopt`
    for a file of the old service. Cause: none.
    """

    KIND: ClassVar = Kind.DESCRIBED
    message: dict[str, Any]
    """As received, with extra keys; what canonical JSON cannot hold is replaced (see `raw`). From the reconciler: only `study_id`,
    `file_path` (relative to UPLOADS_PATH) and `metadata` (the Status Service's `details`). From `adopt`: what the old metadata.json
    implies, with the folder's name as `study_id` and the file's as `file_path`."""
    source: str
    """`pubsub`, `stream`, `reconcile` or `adopt`."""
    raw_sha256: str
    """SHA-256 of the message's bytes; from `adopt`, of the old metadata.json; otherwise, of the canonical JSON of `message`."""
    upload_path: str
    """`file_path`, relative to UPLOADS_PATH."""
    raw: str | None = None
    """Base64 of the message's bytes if they are not plain I-JSON (RFC 7493): duplicate keys, numbers beyond a double, lone surrogates, a
    byte order mark. From `adopt`: of the old metadata.json."""
    processing_time: str | None = None
    """From `adopt`: when the old service archived the file; UTC if its metadata.json gives no offset."""
    rewritten: bool = False
    """By `adopt --rewrite-metadata`: metadata.json has today's format."""

    def entry(self, study_id: str) -> NewEntry:
        """Return the entry to append."""
        return NewEntry(self.KIND, self.stored(), study_id)


@dataclass(frozen=True, slots=True)
class RejectedPayload(Payload):
    """A message that is not a valid event.

    Appended by intake, once per message, up to REJECTED_PER_HOUR. `study_id` and cause: NULL.
    """

    KIND: ClassVar = Kind.REJECTED
    reason: str
    """An [error code](error-codes.md#rejected-messages)."""
    detail: str
    """Human-readable; quotes nothing from the message."""
    source: str
    """`pubsub` or `stream`."""
    bytes: int
    """Size of the message."""
    raw_sha256: str
    """Of the whole message."""
    raw: str
    """Base64 of its first 4 KiB; with `not-processable`, of all of it."""
    study_id: str | None = None
    """The message's `study_id`, if it has a valid one."""

    def entry(self) -> NewEntry:
        """Return the entry to append: without a study, even if the message names one."""
        return NewEntry(self.KIND, self.stored())
