"""Reads the newest checkpoint, and believes it only with a signature of the ledger's own keys."""

from __future__ import annotations

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.keys import is_signed, recorded_verifier_keys
from storage_ledger.operations.heads.place import Head


def read_head(ledger: Ledger, data: bytes) -> Head | None:
    """Return the checkpoint of a note; None if it is not of this ledger, or signed by none of the keys that the ledger records."""
    try:
        note = SignedNote.parse(data)
        checkpoint = Checkpoint.parse(note.text)
    except ValueError:
        return None
    keys = recorded_verifier_keys(ledger)
    signed = any(
        signature.is_by(key) and is_signed(note.text.encode(), signature.value, key) for signature in note.signatures for key in keys
    )
    return Head(checkpoint, note.text, data) if signed and checkpoint.is_of(ledger.ledger_id) else None
