"""Payloads about files in the archive: `archived`, `restored` and `header-read`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class ArchivedFileFields:
    """`file` of an `archived` entry."""

    name: str
    """Name in the archive: `ARCHIVE_PATH/<study_id>/<name>`."""
    original_name: str
    """Name in uploads."""
    bytes: int
    """Size."""
    sha256: str
    """SHA-256."""


@dataclass(frozen=True, slots=True)
class ArchivedPayload(Payload):
    """The file is in the archive under its final name with exactly these bytes, metadata.json is beside it, and both are durable.

    Appended by the place step, once per `described` (redeliveries that arrive before the file is placed share the first one's), or by
    `adopt` for a file that was already there. Cause: the `described` entry.
    """

    KIND: ClassVar = Kind.ARCHIVED
    file: ArchivedFileFields
    """The archived file."""
    placement: str
    """`copied`, or `already-there`: the archive had these bytes under this name, after a redelivery or an interrupted attempt."""
    metadata_sha256: str
    """Of metadata.json after this entry's batch."""
    dicom: dict[str, Any] | None
    """Header attributes by DICOM keyword: strings, integers, or lists of these; of RequestAttributesSequence, a list of such objects."""
    upload_path: str
    """As in `described`."""
    software: str
    """Program version."""
    host: str
    """Machine or container."""
    dicom_error: str | None = None
    """Why `dicom` is null or incomplete: an [error code](error-codes.md#headers)."""
    set_aside: str | None = None
    """Where a damaged file of this name was moved: `.ledger/damaged/…` in ARCHIVE_PATH."""
    supersedes: str | None = None
    """An earlier, incomplete copy of the upload, made while it was still being written; both are kept. This file begins with the earlier
    one's bytes, or the same event brought both and they do not name different instances."""
    unconfirmed: bool = False
    """The event differs from earlier ones and its upload was already gone, so its metadata was never seen together with the file."""
    adopted: bool = False
    """By `adopt`: there is no upload to remove, and a status is sent only with `tell`."""
    tell: bool = False
    """By `adopt`: send a status, because of `--tell` or because one was sent for this study before."""
    processing_time: str | None = None
    """By `adopt`: as in `described`."""

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """Return the entry to append. `described`: position of the `described` entry for which the file was placed."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class RestoredFileFields:
    """`file` of a `restored` entry."""

    name: str
    """Name in the archive."""
    bytes: int
    """Size."""
    sha256: str
    """SHA-256."""


@dataclass(frozen=True, slots=True)
class RestoredPayload(Payload):
    """An archived file that was missing or damaged is in the archive again, durably, with the bytes that the ledger recorded.

    Appended by `storage-ledger replay`. Cause: the first `described` entry of the file.
    """

    KIND: ClassVar = Kind.RESTORED
    file: RestoredFileFields
    """The restored file."""
    found: str
    """`missing`, `changed` (different bytes), or `unrecorded` (the right bytes, restored by a run that was killed before it could record
    them)."""
    source: str | None
    """Path of the copy that was used, with bytes that are not UTF-8 as `\\xff`; null if not known."""
    software: str
    """Program version."""
    host: str
    """Machine or container."""
    set_aside: str | None = None
    """As in `archived`."""
    by: str | None = None
    """Who asked for it, if they said so (`--by`)."""
    reason: str | None = None
    """Why, in their words (`--reason`)."""

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """Return the entry to append. `described`: position of the first `described` entry of the file."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class HeaderReadFileFields:
    """`file` of a `header-read` entry."""

    name: str
    """Name in the archive."""
    sha256: str
    """SHA-256, checked before the header was read."""


@dataclass(frozen=True, slots=True)
class HeaderReadPayload(Payload):
    """The DICOM header of an archived file was re-read, and differs from what the ledger had.

    In the index, and for `sop_instance_uid` in metadata.json, the new values replace those of the `archived` entry, if name and SHA-256
    match. Appended by `storage-ledger repair headers`. Cause: the `archived` entry of the file.
    """

    KIND: ClassVar = Kind.HEADER_READ
    file: HeaderReadFileFields
    """The file whose header was read."""
    dicom: dict[str, Any] | None
    """As in `archived`."""
    software: str
    """Program version."""
    dicom_error: str | None = None
    """As in `archived`."""

    def entry(self, study_id: str, *, archived: int) -> NewEntry:
        """Return the entry to append. `archived`: position of the `archived` entry of the file."""
        return NewEntry(self.KIND, self.stored(), study_id, archived)
