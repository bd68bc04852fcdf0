"""Let a new key sign checkpoints: as a routine, because the present one may have been stolen, or because it is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto
from pathlib import Path

from storage_ledger.domain.ids import later, rfc3339
from storage_ledger.domain.payloads import KeyPayload
from storage_ledger.errors import CheckpointRefused
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof import keys

BOTH_FOR_S = 30 * 86_400.0


class Rotation(Enum):
    """Why the key is replaced."""

    ROUTINE = auto()
    """The present key signs beside the new one for 30 days, so that others can learn of the new one."""
    AT_ONCE = auto()
    """The present key signs nothing more: it may have been stolen."""
    LOST = auto()
    """The present key is missing, unreadable, or another one than the ledger records."""


def rotate_key(
    ledger: Ledger, mirror: Mirror, path: Path, origin: str, clock: Callable[[], datetime], rotation: Rotation, *, by: str, reason: str
) -> tuple[int, KeyPayload]:
    """Make a key, record it, and put it in place of the one at `path`. Returns position and payload of the `key` entry.

    The caller holds the lock of checkpoints. On return the entry is in the mirror. If the process is killed before the entry, nothing
    has changed; afterwards, the next signature finishes the work. A `serve` that is running signs with the new key from then on.

    Raises `CheckpointRefused` if no key is recorded yet, or the present key is lost although `rotation` says otherwise, or the other way
    round; `Retryable`, `LedgerError`.
    """
    if not keys.recorded_keys(ledger):
        raise CheckpointRefused("checkpoint-none", "no key is recorded yet: the first checkpoint makes one")
    keys.require_no_folder(path)
    try:
        keys.signing_keys(ledger, path, origin, clock())  # also finishes a rotation that was interrupted
    except CheckpointRefused:
        if rotation is not Rotation.LOST:
            raise
    else:
        if rotation is Rotation.LOST:
            raise CheckpointRefused("checkpoint-key-not-lost", f"{path} is the key that the ledger records: rotate it without --lost")
    before = keys.recorded_keys(ledger)[0].vkey
    new = keys.make(path.with_name(path.name + keys.NEXT), origin, replaces=True)
    both_until = later(rfc3339(clock()), BOTH_FOR_S) if rotation is Rotation.ROUTINE else None
    payload = KeyPayload(new.verifier.text, replaces=before, both_until=both_until, by=by, reason=reason)
    with ledger.write() as tx:
        position = tx.append(payload.entry()).position
    mirror.catch_up()  # before the files change: a ledger restored from the mirror must know the key in place
    keys.put_in_place(path)
    return position, payload
