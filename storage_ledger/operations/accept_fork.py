"""Record that a person accepted that the ledger does not continue its last checkpoints, so that it can be signed again.

Entries are then lost for good, or were changed. Whoever holds one of those checkpoints can still prove that: nothing here hides it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.payloads import AcknowledgedPayload
from storage_ledger.errors import CHECKPOINT_FORKED
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof.signer import Signer


def accept_fork(
    ledger: Ledger, mirror: Mirror, signer: Signer, clock: Callable[[], datetime], *, by: str, reason: str
) -> tuple[Entry, list[Checkpoint]] | None:
    """Append an `acknowledged` entry that names the contradicted checkpoints, then move them to `.ledger/damaged/`.

    The caller holds the lock of checkpoints. Returns the entry and the checkpoints, largest first; None if the ledger continues them
    all. On return the entry is in the mirror. May be called again after a kill at any point.

    Raises `CheckpointRefused` if the ledger lacks entries in its middle, `Retryable`, `LedgerError`.
    """
    found = signer.contradicted()
    if not found:
        return None
    now = rfc3339(clock())
    texts = [checkpoint.text for checkpoint, _ in found]
    with ledger.write() as tx:
        last = ledger.last()
        said = AcknowledgedPayload(
            code=CHECKPOINT_FORKED,
            by=by,
            reason=reason,
            ledger_time=now if last is None else last.recorded_at,
            clock=now,
            checkpoints=texts,
        )
        entry = tx.append(said.entry())
    mirror.catch_up()
    for checkpoint, note in found:
        signer.set_aside(checkpoint, note)
    return entry, [checkpoint for checkpoint, _ in found]
