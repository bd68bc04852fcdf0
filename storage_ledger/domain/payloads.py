"""The payloads of entries: one type for each kind, and the only place that writes and reads them.

A step builds a payload and appends what its `entry(…)` returns; the arguments are the study and the cause that the kind demands.
A reader calls `of(entry)`, or `ArchivedPayload.of(entry)` where it knows the kind.

A field with a default is optional: it is absent from the stored JSON while it has that default.
docs/reference/entry-kinds.md says what each field means; a test compares the two.

The index, which folds millions of entries, reads the decoded JSON instead (`Entry.data`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Self, get_args

import msgspec

from storage_ledger.domain.entries import CURRENT_SCHEMA, Entry, Kind, NewEntry
from storage_ledger.errors import LedgerUnusable


class UnreadablePayload(ValueError):
    """The stored payload of an entry is not what its kind demands.

    The entry's hashes may hold all the same: whoever can write those can write any payload.
    """


class Payload:
    """What all payloads share. `of` reads, `stored` and each class's own `entry` write."""

    __slots__ = ()
    KIND: ClassVar[Kind]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Decode the payload of an entry of this kind. Decodes at each call, so keep the result.

        Raises `UnreadablePayload`, and `LedgerUnusable` (`ledger-newer`) for a schema that this program does not know.
        It checks no hash: see `require_whole`.
        """
        if entry.kind != cls.KIND:
            raise UnreadablePayload(f"the entry at position {entry.position} is of kind {entry.kind!r}, not {cls.KIND.value!r}")
        try:
            if entry.schema != CURRENT_SCHEMA:
                return msgspec.convert(entry.data, cls)
            decoded: Self = _DECODERS[cls].decode(entry.payload)  # the same in one pass
        except (ValueError, TypeError, RecursionError) as error:  # msgspec's own error is a ValueError
            raise UnreadablePayload(f"the payload at position {entry.position} is not one of kind {cls.KIND.value!r}") from error
        return decoded

    def stored(self) -> dict[str, Any]:
        """The JSON object that the ledger stores."""
        return _stored(self)


@dataclass(frozen=True, slots=True)
class DescribedPayload(Payload):
    """A message says that a file waits in uploads."""

    KIND: ClassVar = Kind.DESCRIBED
    message: dict[str, Any]
    source: str
    raw_sha256: str
    upload_path: str
    raw: str | None = None
    processing_time: str | None = None
    rewritten: bool = False

    def entry(self, study_id: str) -> NewEntry:
        """To be appended."""
        return NewEntry(self.KIND, self.stored(), study_id)


@dataclass(frozen=True, slots=True)
class RejectedPayload(Payload):
    """A message that is no event."""

    KIND: ClassVar = Kind.REJECTED
    reason: str
    detail: str
    source: str
    bytes: int
    raw_sha256: str
    raw: str
    study_id: str | None = None

    def entry(self) -> NewEntry:
        """To be appended: of no study, even where the message names one."""
        return NewEntry(self.KIND, self.stored())


@dataclass(frozen=True, slots=True)
class ArchivedFileFields:
    """`file` of an `archived` entry."""

    name: str
    original_name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ArchivedPayload(Payload):
    """The file lies durably in the archive, and so does metadata.json."""

    KIND: ClassVar = Kind.ARCHIVED
    file: ArchivedFileFields
    placement: str
    metadata_sha256: str
    dicom: dict[str, Any] | None
    upload_path: str
    software: str
    host: str
    dicom_error: str | None = None
    set_aside: str | None = None
    supersedes: str | None = None
    unconfirmed: bool = False
    adopted: bool = False
    tell: bool = False
    processing_time: str | None = None

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """To be appended. `described`: position of the entry because of which the file was placed."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class FailedPayload(Payload):
    """An attempt failed and will be made again; or an outage begins."""

    KIND: ClassVar = Kind.FAILED
    step: str
    code: str
    detail: str
    errno: int | None
    attempt: int
    retry_at: str | None
    upload_path: str | None = None

    def entry(self, study_id: str | None, *, cause: int) -> NewEntry:
        """To be appended for one work item: that of the entry at `cause`, which has no study if it is a `rejected`."""
        return NewEntry(self.KIND, self.stored(), study_id, cause)

    def entry_of_outage(self) -> NewEntry:
        """To be appended for a cause that all work items share."""
        return NewEntry(self.KIND, self.stored())


@dataclass(frozen=True, slots=True)
class RecoveredPayload(Payload):
    """An outage has ended."""

    KIND: ClassVar = Kind.RECOVERED
    step: str
    code: str

    def entry(self, *, failed: int) -> NewEntry:
        """To be appended. `failed`: position of the entry that says that the outage began."""
        return NewEntry(self.KIND, self.stored(), cause=failed)


@dataclass(frozen=True, slots=True)
class QuarantinedPayload(Payload):
    """The file cannot be archived until a person or a redelivery changes something."""

    KIND: ClassVar = Kind.QUARANTINED
    code: str
    detail: str
    upload_path: str
    by: str

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """To be appended. `described`: position of the entry that named the file."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class ReleasedPayload(Payload):
    """A person's decision: the quarantined file is to be tried again."""

    KIND: ClassVar = Kind.RELEASED
    upload_path: str
    code: str
    by: str
    reason: str
    described: int

    def entry(self, study_id: str, *, quarantined: int) -> NewEntry:
        """To be appended. `quarantined`: position of the entry that this answers."""
        return NewEntry(self.KIND, self.stored(), study_id, quarantined)


@dataclass(frozen=True, slots=True)
class DiscardedPayload(Payload):
    """A person's decision: nobody waits for the quarantined file any more."""

    KIND: ClassVar = Kind.DISCARDED
    upload_path: str
    code: str
    by: str
    reason: str

    def entry(self, study_id: str, *, quarantined: int) -> NewEntry:
        """To be appended. `quarantined`: position of the entry that this answers."""
        return NewEntry(self.KIND, self.stored(), study_id, quarantined)


@dataclass(frozen=True, slots=True)
class StatusSentPayload(Payload):
    """The Status Service accepted a status. `study_id` and `error`: only for a rejected message, which is of no study."""

    KIND: ClassVar = Kind.STATUS_SENT
    status: str
    http_status: int
    attempts: int
    tells: list[int]
    reason: str | None = None
    study_id: str | None = None
    error: str | None = None

    def entry(self, study_id: str | None, *, cause: int) -> NewEntry:
        """To be appended. `study_id`: None for a rejected message; `cause`: the last entry that the status is about."""
        return NewEntry(self.KIND, self.stored(), study_id, cause)


@dataclass(frozen=True, slots=True)
class RestoredFileFields:
    """`file` of a `restored` entry."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RestoredPayload(Payload):
    """An archived file that was missing or damaged lies durably in the archive again."""

    KIND: ClassVar = Kind.RESTORED
    file: RestoredFileFields
    found: str
    source: str | None
    software: str
    host: str
    set_aside: str | None = None

    def entry(self, study_id: str, *, described: int) -> NewEntry:
        """To be appended. `described`: position of the entry that first brought the file."""
        return NewEntry(self.KIND, self.stored(), study_id, described)


@dataclass(frozen=True, slots=True)
class AcknowledgedPayload(Payload):
    """A person knows about something that cannot be undone."""

    KIND: ClassVar = Kind.ACKNOWLEDGED
    code: str
    by: str
    reason: str
    ledger_time: str
    clock: str

    def entry(self) -> NewEntry:
        """To be appended."""
        return NewEntry(self.KIND, self.stored())


@dataclass(frozen=True, slots=True)
class HeaderReadFileFields:
    """`file` of a `header-read` entry."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class HeaderReadPayload(Payload):
    """The header of an archived file was read again, and is not what the ledger had."""

    KIND: ClassVar = Kind.HEADER_READ
    file: HeaderReadFileFields
    dicom: dict[str, Any] | None
    software: str
    dicom_error: str | None = None

    def entry(self, study_id: str, *, archived: int) -> NewEntry:
        """To be appended. `archived`: position of the entry that brought the file."""
        return NewEntry(self.KIND, self.stored(), study_id, archived)


@dataclass(frozen=True, slots=True)
class VerifiedScope:
    """`scope` of a `verified` entry. `ranges`: pairs, first and last position of `archived` entries whose files were read."""

    parts: list[str]
    selection: str
    up_to: int
    ranges: list[list[int]]
    study_id: str | None = None


@dataclass(frozen=True, slots=True)
class VerifiedCounts:
    """`counts` of a `verified` entry."""

    files: int
    intact: int
    damaged: int
    unchecked: int
    bytes: int
    findings: int


@dataclass(frozen=True, slots=True)
class VerifiedFinding:
    """One of the `findings`, or of the `unchecked`, of a `verified` entry."""

    code: str
    position: int | None
    study_id: str | None
    path: str | None


@dataclass(frozen=True, slots=True)
class VerifiedPayload(Payload):
    """Files were read and compared with the ledger, and this was found."""

    KIND: ClassVar = Kind.VERIFIED
    by: str
    began: str
    scope: VerifiedScope
    counts: VerifiedCounts
    findings: list[VerifiedFinding]
    unchecked: list[VerifiedFinding]
    complete: bool
    software: str

    def entry(self) -> NewEntry:
        """To be appended."""
        return NewEntry(self.KIND, self.stored())


AnyPayload = (
    DescribedPayload | RejectedPayload | ArchivedPayload | FailedPayload | RecoveredPayload | QuarantinedPayload | ReleasedPayload
    | DiscardedPayload | StatusSentPayload | RestoredPayload | AcknowledgedPayload | HeaderReadPayload | VerifiedPayload
)  # fmt: skip


def of(entry: Entry) -> AnyPayload:
    """Decode the payload of an entry of any kind. Raises as `Payload.of` does; a kind that this program does not know is unreadable."""
    kind = _BY_KIND.get(entry.kind)
    if kind is None:
        raise UnreadablePayload(f"the entry at position {entry.position} is of kind {entry.kind!r}, unknown to this program")
    return kind.of(entry)


def readable(entry: Entry) -> AnyPayload | None:
    """The payload for display; None where `of` raises."""
    try:
        return of(entry)
    except (UnreadablePayload, LedgerUnusable):
        return None


_DECODERS: dict[type[Payload], msgspec.json.Decoder[Any]] = {each: msgspec.json.Decoder(each) for each in get_args(AnyPayload)}
_BY_KIND: dict[str, type[AnyPayload]] = {each.KIND: each for each in get_args(AnyPayload)}


def _stored(record: Any) -> dict[str, Any]:
    # A field without a default has MISSING there, which no value is.
    return {each.name: _plain(value) for each in fields(record) if (value := getattr(record, each.name)) is not each.default}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _stored(value) if is_dataclass(value) else value
