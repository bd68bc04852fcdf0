"""A study folded from its entries: its files, what became of each upload, and the event that metadata.json speaks of."""

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
    """Of one upload, and of a study; the names in the index."""

    PENDING = "pending"
    ARCHIVED = "archived"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


MOST_URGENT_FIRST = (State.QUARANTINED, State.FAILED, State.PENDING, State.ARCHIVED)
"""States of uploads: the first one that any upload of a study is in is the study's state; `discarded` where there is none."""
OUTCOMES = frozenset({State.ARCHIVED, State.QUARANTINED, State.DISCARDED})
LOST_COPY = frozenset({"archive-copy-missing", "archive-copy-changed"})


def upload_state(kind: str, step: object = None) -> State | None:
    """The state that an entry puts its upload into; None where it changes nothing. `step`: that of a `failed` entry.

    described → pending ─┬→ archived
                         ├→ failed (will be tried again) → archived | quarantined
                         └→ quarantined ─┬→ (a redelivery, or `released`) pending → …
                                         └→ discarded → (a redelivery) pending → …
    """
    state = _BECOMES.get(kind)
    return None if state is _FAILED and step != "place" else state


_FAILED = State.FAILED  # a name that is asked for by the million; up to Python 3.11 that of a member takes 0.2 µs to find
_BECOMES: dict[str, State] = {
    Kind.FAILED: State.FAILED,
    Kind.DESCRIBED: State.PENDING,
    Kind.ARCHIVED: State.ARCHIVED,
    Kind.QUARANTINED: State.QUARANTINED,
    Kind.RELEASED: State.PENDING,
    Kind.DISCARDED: State.DISCARDED,
}


def study_state(uploads: Iterable[str]) -> State:
    """Of a whole study: the state that most needs somebody's attention wins."""
    states = set(uploads)
    return next((state for state in MOST_URGENT_FIRST if state in states), State.DISCARDED)


OF_AN_UPLOAD = frozenset(_BECOMES)
_FOLDED = OF_AN_UPLOAD | {Kind.HEADER_READ}


@dataclass(frozen=True, slots=True)
class DescribedEvent:
    """What a `described` entry says, except for the message itself. `said`: digest of the message's metadata.

    A study may have been described a thousand times with a megabyte each; its fold stays small.
    """

    position: int
    recorded_at: str
    upload_path: str
    raw_sha256: str
    said: bytes

    @classmethod
    def of(cls, entry: Entry, payload: DescribedPayload) -> DescribedEvent:
        """From an entry of that kind and its payload."""
        said = canonical_json.dumps([metadata_of(payload.message), validation_details_of(payload.message)])
        digest = hashlib.sha256(said.encode("utf-8")).digest()
        return cls(entry.position, entry.recorded_at, payload.upload_path, payload.raw_sha256, digest)

    @property
    def upload(self) -> DescribedUpload:
        """What tells whether it repeats another one."""
        return DescribedUpload(self.position, self.upload_path, self.raw_sha256)


def metadata_of(message: dict[str, Any]) -> dict[str, Any]:
    """The message's `metadata`, `{}` where it has none."""
    return message.get("metadata") or {}


def validation_details_of(message: dict[str, Any]) -> dict[str, Any]:
    """The message's `validation_details`, `{}` where it has none."""
    return message.get("validation_details") or {}


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of a study in the archive. `position`: of the `described` entry that first brought it.

    `sop_instance_uid`: as the ledger has it, which is a list where a header names several.
    """

    name: str
    original_name: str
    bytes: int
    sha256: str
    sop_instance_uid: str | list[str] | None
    position: int


@dataclass(slots=True)
class UploadRecord:
    """What the entry at `position` says of one upload. `code`: why it failed, is quarantined, or was when it was discarded."""

    state: State
    code: str | None
    position: int


@dataclass(slots=True)
class Study:
    """The fold. Feed it the study's entries in order; `archive` may also be fed outcomes that are about to be appended.

    `version`: of the last entry that `follow` took.

    By upload path: `uploads`, how it stands; `outcomes`, what last came of it, whatever is being tried now; `sources`, the
    names of the files that it brought; `latest`, the last of them; `deliveries`, what was described of it; `lost`, those of whose files
    one was found to be missing or changed in the archive.
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
        """The study as all its entries tell it, in order. Raises as `require_whole` does; also where one is missing."""
        study = cls(study_id)
        study.follow(entries)
        return study

    def follow(self, entries: Iterable[Entry]) -> None:
        """Take the entries beyond `version`, in order. Raises as `of` does; then this fold is of no more use."""
        for version, entry in enumerate(entries, self.version + 1):
            require_whole([entry])
            if entry.version != version:
                text = f"the ledger has no version {version} of this study, but has {entry.version} at position {entry.position}"
                raise Retryable("entry-damaged", text)
            self.apply(entry)
            self.version = version

    @classmethod
    def as_far_as_whole(cls, study_id: str, entries: Iterable[Entry]) -> Study:
        """The same without what is damaged, and without what hangs on that: for people to look at, never to act upon."""
        study = cls(study_id)
        for entry in entries:
            if not faults(entry):
                # Its `described` is damaged; or the program that wrote it is newer, or none of ours.
                with suppress(KeyError, UnreadablePayload, LedgerUnusable):
                    study.apply(entry)
        return study

    def apply(self, entry: Entry) -> None:
        """Take one more entry of this study. Raises `UnreadablePayload`, `LedgerUnusable`, and `KeyError` where its cause is missing."""
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
                if state is not None and payload.upload_path is not None:  # `failed` of an internal error may not know it
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
        """Whether what `by` says of its upload was once said while a file was there to be looked at."""
        return any(by.said in self._confirmed.get(name, ()) for name in self.sources.get(by.upload_path, ()))

    def earlier_states(self, by: DescribedEvent, name: str) -> list[ArchivedFile]:
        """The other files that the upload of `by` has brought, the last one first."""
        brought = self.sources.get(by.upload_path, set()) - {name}
        return [file for each, file in reversed(self.files.items()) if each in brought] if brought else []

    def archive(self, by: DescribedEvent, file: ArchivedFile, *, confirmed: bool = True) -> None:
        """A file is archived because of `by`. The event that last brought a new file or other metadata speaks for the study.

        "Other" is judged against what was last said with the same file: a redelivery of one of several files that came
        with metadata of their own changes nothing. `confirmed`: the upload was there when `by` was placed.
        """
        if confirmed:
            self._confirmed.setdefault(file.name, set()).add(by.said)
        known = self.files.setdefault(file.name, file)
        if known.sop_instance_uid is None and file.sop_instance_uid is not None:  # its header could not be read before
            self.files[file.name] = replace(known, sop_instance_uid=file.sop_instance_uid)
        self.sources.setdefault(by.upload_path, set()).add(file.name)
        self.latest[by.upload_path] = file.name
        last = self._said.get(file.name)
        if last is not None and by.position < last.position:
            return  # it had to wait, and something newer was said meanwhile
        self._said[file.name] = by
        brings_something = last is None or last.said != by.said
        if brings_something and (self.speaker is None or self.speaker.position < by.position):
            self.speaker = by

    def _header_read(self, payload: HeaderReadPayload) -> None:
        """The header of an archived file was read again: what was found now counts, if the file is the one that it was read from."""
        known = self.files.get(payload.file.name)
        if known is not None and known.sha256 == payload.file.sha256:
            self.files[known.name] = replace(known, sop_instance_uid=(payload.dicom or {}).get("SOPInstanceUID"))

    @property
    def state(self) -> State:
        """Of the study as a whole."""
        return study_state(upload.state for upload in self.uploads.values())

    @property
    def failure(self) -> str | None:
        """The code with which `failed` is what to say of the study; None where `archived` is.

        It follows the outcomes: a new try changes nothing before something has come of it. `failed` as long as one upload
        is quarantined, and where no file is there or all that were there are lost.
        """
        for upload in self.outcomes.values():
            if upload.state is State.QUARANTINED:
                return upload.code
        if self.sources.keys() - self.lost:
            return None
        return next((upload.code for upload in self.outcomes.values() if upload.state is State.DISCARDED), None)

    @property
    def quarantine_code(self) -> str | None:
        """The code of the first upload that is quarantined; None when none is."""
        return next((u.code for u in self.uploads.values() if u.state is State.QUARANTINED), None)
