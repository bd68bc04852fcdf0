"""Wires `storage-ledger checkpoint` from the settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from storage_ledger.domain.checkpoint import Checkpoint, origin_of
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.payloads import KeyPayload
from storage_ledger.domain.signed_note import VerifierKey
from storage_ledger.domain.witnesses import log_lines, quorum
from storage_ledger.errors import CheckpointRefused
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof.checkpoints import LATEST, CheckpointFolder
from storage_ledger.ledger.proof.keys import recorded_keys
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.ledger.proof.tree_hashes import LeafHashes
from storage_ledger.operations.accept_fork import accept_fork
from storage_ledger.operations.rotate_key import Rotation, rotate_key
from storage_ledger.settings import TREE_CACHE, Settings
from storage_ledger.system import locks
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.heads import witnesses_of
from storage_ledger.wiring.ledgers import require_writable
from storage_ledger.wiring.stores import UMASK, mirror_of, reading


def proof_files(settings: Settings) -> ProofFiles:
    """Return where the files of checkpoints are."""
    return ProofFiles(
        key=settings.checkpoint_key,
        lock=settings.ledger_path / "checkpoint.lock",
        latest=settings.ledger_path / LATEST,
        blocks=settings.ledger_path / TREE_CACHE,
        origin_prefix=settings.checkpoint_origin,
    )


def signer_of(settings: Settings, ledger: Ledger, leaf_hashes: LeafHashes | None = None) -> Signer:
    """Return the signer of the ledger's checkpoints."""
    return Signer(ledger, CheckpointFolder(settings.archive_path), proof_files(settings), clock=utc_now, leaf_hashes=leaf_hashes)


def sign(settings: Settings) -> bytes | None:
    """Sign a checkpoint of all entries, whether or not `serve` is running, and return the note; None for an empty ledger.

    Raises what `Signer.sign` raises, and `LedgerUnusable` if the mirror does not belong to this ledger.
    """
    with _opened(settings) as (ledger, mirror):

        def mirrored() -> int:
            mirror.catch_up()
            return mirror.position

        return signer_of(settings, ledger).sign(mirrored)


def rotate(settings: Settings, rotation: Rotation, *, by: str, reason: str) -> tuple[int, KeyPayload]:
    """Let a new key sign checkpoints, whether or not `serve` is running: see `rotate_key`."""
    paths = proof_files(settings)
    with _opened(settings) as (ledger, mirror), _turn(paths, "checkpoint rotate-key"):
        origin = origin_of(paths.origin_prefix, ledger.ledger_id)
        return rotate_key(ledger, mirror, paths.key, origin, utc_now, rotation, by=by, reason=reason)


def acknowledge_fork(settings: Settings, *, by: str, reason: str) -> tuple[Entry, list[Checkpoint]] | None:
    """Set aside the checkpoints that the ledger does not continue, whether or not `serve` is running: see `accept_fork`."""
    with _opened(settings) as (ledger, mirror), _turn(proof_files(settings), "acknowledge"):
        return accept_fork(ledger, mirror, signer_of(settings, ledger), utc_now, by=by, reason=reason)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Ledger, Mirror]]:
    """Open the ledger for a command that appends, and its mirror, which belongs to it."""
    os.umask(UMASK)
    require_writable(settings)
    with reading(settings) as ledger:
        mirror = mirror_of(settings, ledger)
        mirror.begin()
        mirror.check()
        yield ledger, mirror


def _turn(paths: ProofFiles, command: str) -> AbstractContextManager[int]:
    """Wait while another process signs."""
    return locks.held(paths.lock, command, waits=lambda _: None)


def policy(settings: Settings) -> list[str]:
    """Return the lines of a policy that trusts this ledger's keys, and asks for one of its witnesses (c2sp.org/tlog-policy).

    A key that was lost, or may have been stolen, is a comment: whoever has it can sign anything.

    Raises `LedgerUnusable`, `BadSettings`, and `CheckpointRefused` (`checkpoint-none`) if no key is recorded yet.
    """
    witnesses = witnesses_of(settings)
    with reading(settings) as ledger:
        recorded = recorded_keys(ledger)
    if not recorded:
        raise CheckpointRefused("checkpoint-none", "no checkpoint has been signed yet: run `storage-ledger checkpoint`")
    replaced_at_once = (number for number, each in enumerate(recorded, 1) if each.by is not None and each.both_until is None)
    trusted = next(replaced_at_once, len(recorded))
    return [
        *log_lines(VerifierKey.parse(each.vkey) for each in recorded[:trusted]),
        *(f"# replaced at once, signs nothing more: log {each.vkey}" for each in recorded[trusted:]),
        *quorum(witnesses),
    ]
