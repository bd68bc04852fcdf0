"""The payloads of entries: one type for each kind, and the only code that writes and reads them.

A step builds a payload and appends the entry that its `entry(…)` returns; the arguments are the study and the cause that the kind requires.
Readers call `of(entry)`, or `ArchivedPayload.of(entry)` where they know the kind.

A field with a default is optional: the stored JSON omits it while it has that default.
scripts/reference writes docs/reference/entry-kinds.md from the docstrings of the classes and the texts below their fields.

The index folds millions of entries, so it reads the decoded JSON (`Entry.data`) instead.
"""

from __future__ import annotations

from typing import get_args

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.payloads.attempts import FailedPayload, QuarantinedPayload, RecoveredPayload, StatusSentPayload
from storage_ledger.domain.payloads.decisions import AcknowledgedPayload, DiscardedPayload, ReleasedPayload
from storage_ledger.domain.payloads.files import (
    ArchivedFileFields,
    ArchivedPayload,
    HeaderReadFileFields,
    HeaderReadPayload,
    RestoredFileFields,
    RestoredPayload,
)
from storage_ledger.domain.payloads.keys import KeyPayload
from storage_ledger.domain.payloads.messages import DescribedPayload, RejectedPayload
from storage_ledger.domain.payloads.payload import Payload, UnreadablePayload
from storage_ledger.domain.payloads.verifications import VerifiedCounts, VerifiedFinding, VerifiedPayload, VerifiedScope
from storage_ledger.errors import LedgerUnusable

__all__ = [
    "AcknowledgedPayload", "AnyPayload", "ArchivedFileFields", "ArchivedPayload", "DescribedPayload", "DiscardedPayload", "FailedPayload",
    "HeaderReadFileFields", "HeaderReadPayload", "KeyPayload", "Payload",
    "QuarantinedPayload", "RecoveredPayload", "RejectedPayload", "ReleasedPayload",
    "RestoredFileFields", "RestoredPayload", "StatusSentPayload", "UnreadablePayload", "VerifiedCounts", "VerifiedFinding",
    "VerifiedPayload", "VerifiedScope", "of", "readable",
]  # fmt: skip

AnyPayload = (
    DescribedPayload | RejectedPayload | ArchivedPayload | FailedPayload | RecoveredPayload | QuarantinedPayload | ReleasedPayload
    | DiscardedPayload | StatusSentPayload | RestoredPayload | AcknowledgedPayload | HeaderReadPayload | VerifiedPayload | KeyPayload
)  # fmt: skip


def of(entry: Entry) -> AnyPayload:
    """Decode the payload of an entry of any kind. Raises what `Payload.of` raises; an unknown kind counts as unreadable."""
    kind = _BY_KIND.get(entry.kind)
    if kind is None:
        raise UnreadablePayload(f"the entry at position {entry.position} is of kind {entry.kind!r}, unknown to this program")
    return kind.of(entry)


def readable(entry: Entry) -> AnyPayload | None:
    """Return the payload for display, or None where `of` raises."""
    try:
        return of(entry)
    except (UnreadablePayload, LedgerUnusable):
        return None


_BY_KIND: dict[str, type[AnyPayload]] = {each.KIND: each for each in get_args(AnyPayload)}
for _kind in _BY_KIND.values():
    _kind.prepare()
