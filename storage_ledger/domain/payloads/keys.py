"""The payload of `key` entries: which keys sign checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads.payload import Payload


@dataclass(frozen=True, slots=True)
class KeyPayload(Payload):
    """From here on, this key signs the checkpoints.

    Appended before the first checkpoint, and by `storage-ledger checkpoint rotate-key`. `study_id` and cause: NULL.
    """

    KIND: ClassVar = Kind.KEY
    vkey: str
    """The public key as [verifier key](https://c2sp.org/signed-note): `<origin>+<key ID>+<key>`."""
    replaces: str | None = None
    """The verifier key before; absent for the first."""
    both_until: str | None = None
    """Until then the key before signs, too. Absent if it does not: it is lost, or may have been stolen."""
    by: str | None = None
    """As in `released`; absent for the first key."""
    reason: str | None = None
    """As in `released`; absent for the first key."""

    def entry(self) -> NewEntry:
        """Return the entry to append."""
        return NewEntry(self.KIND, self.stored())
