"""Finds the checkpoint that a proof ends with: the newest one that covers the entries and that this ledger's keys have signed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.errors import CHECKPOINT_FORKED, ProofError
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.keys import is_signed

NONE_YET = "no checkpoint has been signed yet: run `storage-ledger checkpoint` first"


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with a valid signature. `note`: as it was signed; `joined`: with what witnesses added; `time_stamp`: RFC 3161."""

    checkpoint: Checkpoint
    note: bytes
    joined: bytes
    time_stamp: bytes | None


def newest(folder: CheckpointFolder, ledger_id: str, keys: Collection[VerifierKey]) -> SignedCheckpoint:
    """Return the newest checkpoint of the ledger.

    Notes that none of the ledger's `keys` has signed are passed over, as are damaged ones. Raises `ProofError` (`checkpoint-none`, and
    `checkpoint-forked` if no note has a valid signature), and `Retryable` if the archive's volume fails.
    """
    sizes = folder.sizes()
    if not sizes:
        raise ProofError("checkpoint-none", NONE_YET)
    found = next((each for size in reversed(sizes) if (each := _signed(folder, size, ledger_id, keys)) is not None), None)
    if found is None:
        raise ProofError(CHECKPOINT_FORKED, "none of the checkpoints in ARCHIVE_PATH is signed by a key that the ledger records")
    return found


def require_covered(signed: SignedCheckpoint, position: int) -> None:
    """Raise `ProofError` (`checkpoint-too-old`) if the entry at `position` is newer than the checkpoint."""
    size = signed.checkpoint.size
    if size < position:
        text = f"the entry at position {position} is newer than the last checkpoint ({size} entries)"
        raise ProofError("checkpoint-too-old", f"{text}: run `storage-ledger checkpoint` first, or wait for the next one")


def _signed(folder: CheckpointFolder, size: int, ledger_id: str, keys: Collection[VerifierKey]) -> SignedCheckpoint | None:
    note, joined = folder.read(size), folder.joined(size)
    if note is None or joined is None or (checkpoint := _checkpoint(note, keys)) is None:
        return None
    if checkpoint.size != size or not checkpoint.is_of(ledger_id):
        return None
    # A cosignature under our own key's name would spoil every proof: whoever writes the archive can put one there.
    return SignedCheckpoint(checkpoint, note, note if _checkpoint(joined, keys) is None else joined, folder.time_stamp(size))


def _checkpoint(data: bytes, keys: Collection[VerifierKey]) -> Checkpoint | None:
    """Return what a note states if one of the keys, of the log's own name, has signed it, and none has signed it wrongly."""
    try:
        note = SignedNote.parse(data)
        found = Checkpoint.parse(note.text)
    except ValueError:
        return None
    ours = [(signature.value, key) for signature in note.signatures for key in keys if signature.is_by(key)]
    valid = all(is_signed(note.text.encode(), value, key) for value, key in ours)
    return found if valid and any(key.name == found.origin for _, key in ours) else None
