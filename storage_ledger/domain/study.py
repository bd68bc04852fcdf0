"""A study folded from its entries: its files, the state of each upload, and the event that metadata.json describes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Entry, Kind, faults, require_whole
from storage_ledger.domain.payloads import (
    ArchivedPayload,
    DescribedPayload,
    DiscardedPayload,
    FailedPayload,
    HeaderReadPayload,
    QuarantinedPayload,
    ReleasedPayload,
    UnreadablePayload,
)
from storage_ledger.domain.redeliveries import DescribedUpload
from storage_ledger.errors import LedgerUnusable, Retryable

GROUPS = ("patient_info", "study_info", "modality_info", "exposure_info", "location_info")


class State(StrEnum):
    """The states of an upload and of a study; names in the index."""

    PENDING = "pending"
    ARCHIVED = "archived"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


MOST_URGENT_FIRST = (State.QUARANTINED, State.FAILED, State.PENDING, State.ARCHIVED)
"""A study's state is the first of these that any of its uploads has, or else `discarded`."""
OUTCOMES = frozenset({State.ARCHIVED, State.QUARANTINED, State.DISCARDED})
LOST_COPY = frozenset({"archive-copy-missing", "archive-copy-changed"})


def upload_state(kind: str, step: object = None) -> State | None:
    """Return the state that an entry puts its upload into; None if it changes nothing. `step`: that of a `failed` entry.

    described → pending ─┬→ archived
                         ├→ failed (will be retried) → archived | quarantined
                         └→ quarantined ─┬→ (a redelivery, or `released`) pending → …
                                         └→ discarded → (a redelivery) pending → …
    """
    state = _BECOMES.get(kind)
    return None if state is _FAILED and step != "place" else state


_FAILED = State.FAILED  # hot: before Python 3.12 looking up an enum member takes 0.2 µs
_BECOMES: dict[str, State] = {
    Kind.FAILED: State.FAILED,
    Kind.DESCRIBED: State.PENDING,
    Kind.ARCHIVED: State.ARCHIVED,
    Kind.QUARANTINED: State.QUARANTINED,
    Kind.RELEASED: State.PENDING,
    Kind.DISCARDED: State.DISCARDED,
}


def study_state(uploads: Iterable[str]) -> State:
    """Return the state of a study from the states of its uploads: the one that most needs attention."""
    states = set(uploads)
    return next((state for state in MOST_URGENT_FIRST if state in states), State.DISCARDED)


OF_AN_UPLOAD = frozenset(_BECOMES)
_FOLDED = OF_AN_UPLOAD | {Kind.HEADER_READ}


@dataclass(frozen=True, slots=True)
class DescribedEvent:
    """A `described` entry without the message itself. `said`: SHA-256 of the message's metadata.

    This keeps the fold small: a study may have a thousand `described` entries of a megabyte each.
    """

    position: int
    recorded_at: str
    upload_path: str
    raw_sha256: str
    said: bytes

    @classmethod
    def of(cls, entry: Entry, payload: DescribedPayload) -> DescribedEvent:
        """Create an event from a `described` entry and its payload."""
        said = canonical_json.dumps([metadata_of(payload.message), validation_details_of(payload.message)])
        digest = hashlib.sha256(said.encode("utf-8")).digest()
        return cls(entry.position, entry.recorded_at, payload.upload_path, payload.raw_sha256, digest)

    @property
    def upload(self) -> DescribedUpload:
        """The values that decide whether this message repeats another one."""
        return DescribedUpload(self.position, self.upload_path, self.raw_sha256)


def metadata_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message's `metadata`, or `{}`."""
    return message.get("metadata") or {}


def validation_details_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message's `validation_details`, or `{}`."""
    return message.get("validation_details") or {}


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of a study in the archive. `position`: of the first `described` entry of the file.

    `sop_instance_uid`: as in the ledger: a list if the header names several.
    """

    name: str
    original_name: str
    bytes: int
    sha256: str
    sop_instance_uid: str | list[str] | None
    position: int


@dataclass(slots=True)
class UploadRecord:
    """The state of an upload after the entry at `position`. `code`: why it failed or was quarantined."""

    state: State
    code: str | None
    position: int


@dataclass(slots=True)
class Study:
    """A study, folded from its entries in order. `archive` also takes outcomes that are about to be appended.

    `version`: of the last entry that `follow` took. `speaker`: the event that metadata.json describes.

    By upload path: `uploads`, the current state; `outcomes`, the last outcome, even if the upload is being retried; `sources`, the
    names of the files archived from it; `latest`, the last of these; `deliveries`, its `described` entries; `lost`, the uploads
    with a file that was found missing or changed in the archive.
    """

    study_id: str
    version: int = 0
    described: dict[int, DescribedEvent] = field(default_factory=dict)
    uploads: dict[str, UploadRecord] = field(default_factory=dict)
    files: dict[str, ArchivedFile] = field(default_factory=dict)
    sources: dict[str, set[str]] = field(default_factory=dict)
    outcomes: dict[str, UploadRecord] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    latest: dict[str, str] = field(default_factory=dict)
    deliveries: dict[str, list[DescribedUpload]] = field(default_factory=dict)
    speaker: DescribedEvent | None = None
    _said: dict[str, DescribedEvent] = field(default_factory=dict)
    _confirmed: dict[str, set[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, study_id: str, entries: Iterable[Entry]) -> Study:
        """Fold all entries of a study, in order. Raises what `require_whole` raises, also if an entry is missing."""
        study = cls(study_id)
        study.follow(entries)
        return study

    def follow(self, entries: Iterable[Entry]) -> None:
        """Fold the entries after `version`, in order. Raises the same errors as `of`; do not use this fold after an error."""
        for version, entry in enumerate(entries, self.version + 1):
            require_whole([entry])
            if entry.version != version:
                text = (
                    f"version {version} of this study is missing from the ledger; version {entry.version} is at position {entry.position}"
                )
                raise Retryable("entry-damaged", text)
            self.apply(entry)
            self.version = version

    @classmethod
    def as_far_as_whole(cls, study_id: str, entries: Iterable[Entry]) -> Study:
        """Fold a study without its damaged entries and those that depend on them: for display only, never to act upon."""
        study = cls(study_id)
        for entry in entries:
            if not faults(entry):
                # Its `described` is damaged, or a newer or foreign program wrote it.
                with suppress(KeyError, UnreadablePayload, LedgerUnusable):
                    study.apply(entry)
        return study

    def apply(self, entry: Entry) -> None:
        """Fold the next entry of this study. Raises `UnreadablePayload`, `LedgerUnusable`, and `KeyError` if its cause is missing."""
        if entry.kind not in _FOLDED:
            return
        match payload := payloads.of(entry):
            case DescribedPayload():
                described = DescribedEvent.of(entry, payload)
                self.described[entry.position] = described
                self.deliveries.setdefault(described.upload_path, []).append(described.upload)
                self.uploads[described.upload_path] = UploadRecord(State.PENDING, None, entry.position)
            case HeaderReadPayload():
                self._header_read(payload)
            case ArchivedPayload() if entry.cause is not None:
                self._came_to(entry, State.ARCHIVED, payload.upload_path, None)
                self._archived(payload, entry.cause)
            case ReleasedPayload() if entry.cause is not None:
                self._came_to(entry, State.PENDING, payload.upload_path, None)
            case FailedPayload() | QuarantinedPayload() | DiscardedPayload() if entry.cause is not None:
                state = upload_state(entry.kind, payload.step if isinstance(payload, FailedPayload) else None)
                if state is not None and payload.upload_path is not None:  # absent after an internal error
                    self._came_to(entry, state, payload.upload_path, payload.code)

    def _came_to(self, entry: Entry, state: State, path: str, code: str | None) -> None:
        self.uploads[path] = record = UploadRecord(state, code, entry.position)
        if state in OUTCOMES:
            self.outcomes[path] = record
        if state is State.ARCHIVED:
            self.lost.discard(path)
        elif code in LOST_COPY:
            self.lost.add(path)

    def _archived(self, payload: ArchivedPayload, cause: int) -> None:
        file = payload.file
        sop = (payload.dicom or {}).get("SOPInstanceUID")
        archived = ArchivedFile(file.name, file.original_name, file.bytes, file.sha256, sop, cause)
        self.archive(self.described[cause], archived, confirmed=not payload.unconfirmed)

    def is_confirmed(self, by: DescribedEvent) -> bool:
        """Return whether an event with the same content as `by` was once placed while its upload was there."""
        return any(by.said in self._confirmed.get(name, ()) for name in self.sources.get(by.upload_path, ()))

    def earlier_states(self, by: DescribedEvent, name: str) -> list[ArchivedFile]:
        """Return the other files archived from the upload of `by`, latest first."""
        brought = self.sources.get(by.upload_path, set()) - {name}
        return [file for each, file in reversed(self.files.items()) if each in brought] if brought else []

    def archive(self, by: DescribedEvent, file: ArchivedFile, *, confirmed: bool = True) -> None:
        """Record that `by` archived a file. metadata.json describes the last event that added a file or changed the metadata.

        Metadata are compared with the last event for the same file: if several files came with their own metadata, a redelivery of one of
        them changes nothing. `confirmed`: the upload was there when `by` was placed.
        """
        if confirmed:
            self._confirmed.setdefault(file.name, set()).add(by.said)
        known = self.files.setdefault(file.name, file)
        if known.sop_instance_uid is None and file.sop_instance_uid is not None:  # its header could not be read earlier
            self.files[file.name] = replace(known, sop_instance_uid=file.sop_instance_uid)
        self.sources.setdefault(by.upload_path, set()).add(file.name)
        self.latest[by.upload_path] = file.name
        last = self._said.get(file.name)
        if last is not None and by.position < last.position:
            return  # it was delayed, and a newer event came first
        self._said[file.name] = by
        brings_something = last is None or last.said != by.said
        if brings_something and (self.speaker is None or self.speaker.position < by.position):
            self.speaker = by

    def _header_read(self, payload: HeaderReadPayload) -> None:
        """Apply the result of re-reading a header, if it was read from this very file."""
        known = self.files.get(payload.file.name)
        if known is not None and known.sha256 == payload.file.sha256:
            self.files[known.name] = replace(known, sop_instance_uid=(payload.dicom or {}).get("SOPInstanceUID"))

    @property
    def state(self) -> State:
        """The state of the whole study."""
        return study_state(upload.state for upload in self.uploads.values())

    @property
    def failure(self) -> str | None:
        """The code of the study's `failed` status; None if its status is `archived`.

        Only outcomes count, so a retry changes nothing until it has one. The status is `failed` while any upload is quarantined, or if the
        study has no file, or has lost all its files.
        """
        for upload in self.outcomes.values():
            if upload.state is State.QUARANTINED:
                return upload.code
        if self.sources.keys() - self.lost:
            return None
        return next((upload.code for upload in self.outcomes.values() if upload.state is State.DISCARDED), None)

    @property
    def quarantine_code(self) -> str | None:
        """The code of the first quarantined upload, or None."""
        return next((u.code for u in self.uploads.values() if u.state is State.QUARANTINED), None)
