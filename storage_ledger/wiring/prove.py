"""Wires `storage-ledger prove` from the settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.errors import ProofError
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.keys import recorded_verifier_keys
from storage_ledger.ledger.proof.tree_hashes import BlockFile
from storage_ledger.operations.prove.bundle import bundle
from storage_ledger.operations.prove.covering import newest, require_covered
from storage_ledger.operations.prove.output import write
from storage_ledger.operations.prove.proofs import proofs
from storage_ledger.operations.prove.selection import Wanted, entries_of
from storage_ledger.settings import Settings
from storage_ledger.wiring.checkpoint import proof_files
from storage_ledger.wiring.stores import UMASK, reading


@dataclass(frozen=True, slots=True)
class Proved:
    """What was written: proofs of the entries at these positions, of these studies, ending with this checkpoint."""

    output: Path
    study_ids: list[str]
    positions: list[int]
    checkpoint: Checkpoint


def prove(settings: Settings, wanted: Wanted, output: Path, *, with_payload: bool) -> Proved | None:
    """Write a bundle of proofs to `output`, and say what it holds; None if there is no such study, entry or file.

    Reads only: `serve` may be running. Raises `ProofError` and `LedgerError`, and `Retryable` for a damaged entry or a volume that fails.
    """
    os.umask(UMASK)
    output = Path(os.path.abspath(output))
    _require_outside(settings, output)
    with reading(settings) as ledger:
        entries = entries_of(wanted, ledger, settings.index_file)
        if not entries:
            return None
        keys = recorded_verifier_keys(ledger)
        signed = newest(CheckpointFolder(settings.archive_path), ledger.ledger_id, keys)
        require_covered(signed, entries[-1].position)
        blocks = BlockFile(proof_files(settings).blocks, ledger.ledger_id).read()
        made = proofs(entries, signed, ledger.leaf_hashes, blocks, with_payload=with_payload)
    write(bundle(made, signed, keys, with_payload=with_payload), output)
    studies = dict.fromkeys(entry.study_id for entry in entries if entry.study_id is not None)
    return Proved(output, list(studies), [entry.position for entry in entries], signed.checkpoint)


def _require_outside(settings: Settings, output: Path) -> None:
    real = Path(os.path.realpath(output))
    for name in ("uploads_path", "archive_path", "ledger_path"):
        if real.is_relative_to(os.path.realpath(getattr(settings, name))):
            raise ProofError("proof-output", f"{output} is inside {name.upper()}: write proofs to another folder")
