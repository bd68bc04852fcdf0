"""What an entry is: its kinds, its fields, its proof.

A new kind is a new member of `Kind`; `match` statements over kinds end in `assert_never`, so that mypy names every
place that has to know it. A changed payload is a new `schema` number with an upcaster in `upcast`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from storage_ledger.domain import canonical_json
from storage_ledger.errors import LedgerUnusable, Retryable


class Kind(StrEnum):
    """The stored names: stable, independent of any class or module."""

    DESCRIBED = "described"
    REJECTED = "rejected"
    ARCHIVED = "archived"
    FAILED = "failed"
    RECOVERED = "recovered"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    DISCARDED = "discarded"
    STATUS_SENT = "status-sent"
    RESTORED = "restored"
    VERIFIED = "verified"
    ACKNOWLEDGED = "acknowledged"
    HEADER_READ = "header-read"


CURRENT_SCHEMA = 1
ADOPT = "adopt"
"""The `source` of a `described` entry that was made from what the old service left in the archive."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A fact that is to be appended: the ledger gives it position, version, id, time and hashes."""

    kind: Kind
    payload: dict[str, Any]
    study_id: str | None = None
    cause: int | None = None


class Entry(NamedTuple):
    """One row of `entries`, as stored. `payload` is canonical JSON text; `data` is it parsed and upcast.

    A tuple since a frozen dataclass of twelve fields takes ten times as long to make, and they are made by the million.
    """

    position: int
    entry_id: str
    study_id: str | None
    version: int | None
    kind: str
    schema: int
    recorded_at: str
    cause: int | None
    payload: str
    payload_sha256: str
    salt: bytes
    leaf_hash: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The payload in its current shape; parsed at each call, so keep it."""
        return upcast(self.kind, self.schema, canonical_json.loads(self.payload))


class EncodedEntry(Entry):
    """The same with `payload` in UTF-8, as it lies in the file: for whoever checks and folds them by the million, and no more."""

    __slots__ = ()


def upcast(kind: str, schema: int, payload: dict[str, Any]) -> dict[str, Any]:
    """Bring a payload of an older schema into the current shape. Pure; every kind is at schema 1 so far."""
    if schema != CURRENT_SCHEMA:
        raise LedgerUnusable("ledger-newer", f"an entry of kind {kind!r} has schema {schema}; this program knows up to {CURRENT_SCHEMA}")
    return payload


def understood(entry: Entry) -> dict[str, Any] | None:
    """The payload, for whoever only looks; None where this program cannot read it: of a newer schema, or no object at all."""
    try:
        data = entry.data
    except (LedgerUnusable, ValueError):
        return None
    return data if data.__class__ is dict else None


def header(entry: Entry) -> bytes:
    """The canonical JSON that its leaf hash is of."""
    return canonical_json.header_of(*_header(entry))


def faults(entry: Entry) -> list[str]:
    """What does not hold of an entry by itself: codes, empty when it is whole.

    Any flipped bit of any column is seen: the payload and salt by `payload_sha256`, everything else by `leaf_hash`.
    """
    position, entry_id, study_id, version, kind, schema, recorded_at, cause, payload, payload_sha256, salt, leaf_hash = entry
    found = []
    try:
        # Bytes in a column of text are no payload, even if they are the right ones.
        if canonical_json.payload_sha256(salt, payload if entry.__class__ is EncodedEntry else payload.encode()) != payload_sha256:
            found.append("payload-changed")
        whole = canonical_json.header_of(cause, entry_id, kind, payload_sha256, position, recorded_at, schema, study_id, version)
        if canonical_json.leaf_hash_of(whole) != leaf_hash:
            found.append("header-changed")
    except (TypeError, ValueError, AttributeError):
        found.append("entry-unreadable")
    return found


def has_whole_header(entry: Entry) -> bool:
    """Whether everything but the payload is what was recorded."""
    try:
        return canonical_json.leaf_hash_of(header(entry)) == entry.leaf_hash
    except (TypeError, ValueError):
        return False


def require_whole(entries: Iterable[Entry]) -> None:
    """See that all of them are what was recorded. Nothing may be done because of one that is not: no file placed, no word told.

    Raises `Retryable` (`entry-damaged`), of this study alone, which names the first that is not: it may be mended.
    """
    for entry in entries:
        if found := faults(entry):
            raise Retryable("entry-damaged", f"the ledger's entry at position {entry.position} is not what its hashes say ({found[0]})")


_header = attrgetter(*canonical_json.HEADER)
