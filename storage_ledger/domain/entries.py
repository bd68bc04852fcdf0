"""Entries: their kinds, their fields, and the checks against their hashes.

A new kind is a new member of `Kind`; `match` statements over kinds end in `assert_never`, so mypy reports every place that must handle it.
A changed payload gets a new `schema` number and an upcaster in `upcast`.
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
    """The stored names of entry kinds: stable, independent of classes and modules."""

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
    KEY = "key"


CURRENT_SCHEMA = 1
ADOPT = "adopt"
"""The `source` of a `described` entry for a file that the old service left in the archive."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to be appended; the ledger adds position, version, id, time and hashes."""

    kind: Kind
    payload: dict[str, Any]
    study_id: str | None = None
    cause: int | None = None


class Entry(NamedTuple):
    """One row of `entries`, as stored. `payload` is canonical JSON text; `data` is the same parsed and upcast.

    A tuple, because a frozen dataclass of twelve fields takes ten times as long to create, and millions are created.
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
        """The payload in the current schema. It is parsed at each access, so keep the result."""
        return upcast(self.kind, self.schema, canonical_json.loads(self.payload))


class EncodedEntry(Entry):
    """An entry with `payload` in UTF-8, as in the file. Only for code that checks and folds millions of entries."""

    __slots__ = ()


def upcast(kind: str, schema: int, payload: dict[str, Any]) -> dict[str, Any]:
    """Convert a payload from an older schema to the current one. So far every kind is at schema 1."""
    if schema != CURRENT_SCHEMA:
        raise LedgerUnusable("ledger-newer", f"an entry of kind {kind!r} has schema {schema}; this program knows up to {CURRENT_SCHEMA}")
    return payload


def understood(entry: Entry) -> dict[str, Any] | None:
    """Return the payload for display; None if this program cannot read it: a newer schema, or not an object."""
    try:
        data = entry.data
    except (LedgerUnusable, ValueError):
        return None
    return data if data.__class__ is dict else None


def header(entry: Entry) -> bytes:
    """Return the canonical JSON that the leaf hash is computed from."""
    return canonical_json.header_of(*_header(entry))


def faults(entry: Entry) -> list[str]:
    """Check an entry against its own hashes. Returns error codes; none if it is intact.

    A flipped bit in any column is detected: payload and salt by `payload_sha256`, everything else by `leaf_hash`.
    """
    position, entry_id, study_id, version, kind, schema, recorded_at, cause, payload, payload_sha256, salt, leaf_hash = entry
    found = []
    try:
        # A BLOB in the payload column is damage, even if it has the right bytes.
        if canonical_json.payload_sha256(salt, payload if entry.__class__ is EncodedEntry else payload.encode()) != payload_sha256:
            found.append("payload-changed")
        whole = canonical_json.header_of(cause, entry_id, kind, payload_sha256, position, recorded_at, schema, study_id, version)
        if canonical_json.leaf_hash_of(whole) != leaf_hash:
            found.append("header-changed")
    except (TypeError, ValueError, AttributeError):
        found.append("entry-unreadable")
    return found


def has_whole_header(entry: Entry) -> bool:
    """Return whether everything but the payload matches the leaf hash."""
    try:
        return canonical_json.leaf_hash_of(header(entry)) == entry.leaf_hash
    except (TypeError, ValueError):
        return False


def require_whole(entries: Iterable[Entry]) -> None:
    """Check that all entries match their hashes. A damaged one must have no effect: no file is placed, no status is sent.

    Raises `Retryable` (`entry-damaged`) naming the first damaged entry. It affects this study alone, and the entry may be repaired.
    """
    for entry in entries:
        if found := faults(entry):
            raise Retryable("entry-damaged", f"the ledger's entry at position {entry.position} does not match its hashes ({found[0]})")


_header = attrgetter(*canonical_json.HEADER)
