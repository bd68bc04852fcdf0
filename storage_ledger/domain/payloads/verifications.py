"""The payload of `verified` entries: which files were read and compared with the ledger, and the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class VerifiedScope:
    """`scope` of a `verified` entry."""

    parts: list[str]
    """Checked so far: `ledger`, `mirror`, `checkpoints`, `pending`, `files`, `strangers` (unexpected files), `index`."""
    selection: str
    """`all`, `sample`, `older-than`, `study`, or `oldest` (the scrub)."""
    up_to: int
    """The last position taken into account."""
    ranges: list[list[int]]
    """First and last position of `archived` entries whose files were read."""
    study_id: str | None = None
    """With `study`."""


@dataclass(frozen=True, slots=True)
class VerifiedCounts:
    """`counts` of a `verified` entry."""

    files: int
    """Files selected."""
    intact: int
    """Of these, intact."""
    damaged: int
    """Of these, missing or damaged."""
    unchecked: int
    """Of these, not readable."""
    bytes: int
    """Size of the intact files."""
    findings: int
    """All findings, about files or not."""


@dataclass(frozen=True, slots=True)
class VerifiedFinding:
    """One item in `findings` or `unchecked` of a `verified` entry."""

    code: str
    """An [error code](error-codes.md#verify)."""
    position: int | None
    """Entry."""
    study_id: str | None
    """Study."""
    path: str | None
    """File."""


@dataclass(frozen=True, slots=True)
class VerifiedPayload(Payload):
    """Archived files were read and compared with the ledger.

    Appended by `storage-ledger verify`, or by the scrub (background verification) of `serve`. A long run appends one about every 10,000
    files, so that results are kept if it is killed. `study_id` and cause: NULL.

    Every file whose first `archived` entry is in `scope.ranges` was read, in its state as of `scope.up_to`, and is intact, except those in
    `findings` with the code `file-missing`, `file-changed` or `file-replaced`, and those in `unchecked`. The index gets `fixity` and
    `verified_at` from this.
    """

    KIND: ClassVar = Kind.VERIFIED
    by: str
    """`verify` or `scrub`."""
    began: str
    """When the run or round began; the same in all of its entries."""
    scope: VerifiedScope
    """What was checked."""
    counts: VerifiedCounts
    """Totals."""
    findings: list[VerifiedFinding]
    """All about files, and the first 1,000 others."""
    unchecked: list[VerifiedFinding]
    """What could not be checked, with the same fields."""
    complete: bool
    """True in the last entry of a finished run or round."""
    software: str
    """Program version."""

    def entry(self) -> NewEntry:
        """Return the entry to append."""
        return NewEntry(self.KIND, self.stored())
