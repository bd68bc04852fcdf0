"""Wires `storage-ledger checkpoint` from the settings."""

from __future__ import annotations

import os

from storage_ledger.domain.witnesses import quorum
from storage_ledger.errors import CheckpointRefused
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.migrate import require_writable
from storage_ledger.ledger.proof.checkpoints import LATEST, CheckpointFolder
from storage_ledger.ledger.proof.keys import recorded_keys
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.settings import Settings
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.heads import witnesses_of
from storage_ledger.wiring.stores import UMASK, mirror_of, reading


def proof_files(settings: Settings) -> ProofFiles:
    """Return where the files of checkpoints are."""
    return ProofFiles(
        key=settings.checkpoint_key,
        lock=settings.ledger_path / "checkpoint.lock",
        latest=settings.ledger_path / LATEST,
        blocks=settings.ledger_path / "tree.cache",
        origin_prefix=settings.checkpoint_origin,
    )


def signer_of(settings: Settings, ledger: Ledger) -> Signer:
    """Return the signer of the ledger's checkpoints."""
    return Signer(ledger, CheckpointFolder(settings.archive_path), proof_files(settings), clock=utc_now)


def sign(settings: Settings) -> bytes | None:
    """Sign a checkpoint of all entries, whether or not `serve` is running, and return the note; None for an empty ledger.

    Raises what `Signer.sign` raises, and `LedgerUnusable` if the mirror does not belong to this ledger.
    """
    os.umask(UMASK)
    require_writable(settings.ledger_file)
    with reading(settings) as ledger:
        mirror = mirror_of(settings, ledger)
        mirror.begin()
        mirror.check()

        def mirrored() -> int:
            mirror.catch_up()
            return mirror.position

        return signer_of(settings, ledger).sign(mirrored)


def policy(settings: Settings) -> list[str]:
    """Return the lines of a policy that trusts this ledger's keys, and asks for one of its witnesses (c2sp.org/tlog-policy).

    Raises `LedgerUnusable`, `BadSettings`, and `CheckpointRefused` (`checkpoint-none`) if no key is recorded yet.
    """
    witnesses = witnesses_of(settings)
    with reading(settings) as ledger:
        keys = [each.vkey for each in recorded_keys(ledger)]
    if not keys:
        raise CheckpointRefused("checkpoint-none", "no checkpoint was signed yet: run `storage-ledger checkpoint`")
    return [*(f"log {vkey}" for vkey in keys), *quorum(witnesses)]
