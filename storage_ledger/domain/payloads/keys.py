"""The payload of `key` entries: which keys sign checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.ids import instant
from storage_ledger.domain.payloads.payload import Payload
from storage_ledger.domain.signed_note import VerifierKey


@dataclass(frozen=True, slots=True)
class KeyPayload(Payload):
    """From here on, this key signs the checkpoints.

    Appended before the first checkpoint, and by `storage-ledger checkpoint rotate-key`. `study_id` and cause: NULL.
    """

    KIND: ClassVar = Kind.KEY
    vkey: str
    """The public key as [verifier key](https://c2sp.org/signed-note): `<origin>+<key ID>+<key>`."""
    replaces: str | None = None
    """The previous verifier key; absent for the first."""
    both_until: str | None = None
    """Until then the previous key signs as well. Absent if it does not: it is lost, or may have been stolen."""
    by: str | None = None
    """As in `released`; absent for the first key."""
    reason: str | None = None
    """As in `released`; absent for the first key."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for what is no key or no time: whoever can compute hashes can store any text. `of` then raises its error."""
        VerifierKey.parse(self.vkey)
        if self.both_until is not None and instant(self.both_until).tzinfo is None:
            raise ValueError("both_until has no time zone")

    def entry(self) -> NewEntry:
        """Return the entry to append."""
        return NewEntry(self.KIND, self.stored())
