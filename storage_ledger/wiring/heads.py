"""Settings → the places outside that get checkpoints, and the thread that hands them over."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from storage_ledger.domain.signed_note import MOST_BYTES
from storage_ledger.domain.witnesses import Witness, read_witnesses
from storage_ledger.errors import BadSettings
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.checkpoints import LATEST, CheckpointFolder
from storage_ledger.operations.heads.heads import Heads
from storage_ledger.operations.heads.keeper import Keeper
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.settings import Settings, checked_url
from storage_ledger.system import files
from storage_ledger.system.files import opened
from storage_ledger.system.http_post import is_url
from storage_ledger.system.metrics import Metrics


def witnesses_of(settings: Settings) -> list[Witness]:
    """Return the witnesses of CHECKPOINT_WITNESSES. Raises `BadSettings`."""
    try:
        found = read_witnesses(settings.checkpoint_witnesses)
        for each in found:
            _require_prefix(each.url)
    except ValueError as error:
        raise BadSettings("bad-settings", f"CHECKPOINT_WITNESSES: {error}") from None
    return found


def _require_prefix(url: str) -> None:
    """Raise `ValueError` for a URL that cannot be continued by a path, or that must not be shown to others in a policy."""
    parts = urlsplit(checked_url(url, ("http", "https")))
    if parts.query or parts.fragment or parts.username or parts.password or not is_url(url):
        raise ValueError("a URL must have neither user, password, query nor fragment")


def heads_of(settings: Settings, ledger: Ledger, metrics: Metrics) -> Heads | None:
    """Return what takes checkpoints outside; None if no place is configured. Raises `BadSettings`."""
    witnesses = witnesses_of(settings)
    if not (witnesses or settings.checkpoint_tsa or settings.checkpoint_exec):
        return None
    if settings.checkpoint_tsa and not is_url(settings.checkpoint_tsa):
        raise BadSettings("bad-settings", "CHECKPOINT_TSA: is not a URL")
    roots = _certificates(settings)
    latest = settings.ledger_path / LATEST

    def newest() -> bytes | None:
        with suppress(OSError), opened(latest.parent, files.VOLUME) as folder:
            return files.read_file(latest.name, folder, MOST_BYTES + 1)
        return None

    return Heads(partial(_places, settings, ledger, witnesses, roots), newest, partial(_read, ledger), metrics)


def _certificates(settings: Settings) -> bytes | None:
    path = settings.checkpoint_tsa_certificates
    if path is None:
        return None
    try:
        found = path.read_bytes()
    except OSError as error:
        text = f"CHECKPOINT_TSA_CERTIFICATES: {path} cannot be read: {os.strerror(error.errno or 0)}"
        raise BadSettings("bad-settings", text, errno=error.errno) from error
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise BadSettings("bad-settings", f"CHECKPOINT_TSA_CERTIFICATES: {path} has no certificate in PEM form")
    return found


def _read(ledger: Ledger, note: bytes) -> Head | None:
    from storage_ledger.operations.heads.signed_head import read_head

    return read_head(ledger, note)


def _places(settings: Settings, ledger: Ledger, witnesses: list[Witness], roots: bytes | None) -> list[Place]:
    # ruff: noqa: PLC0415 - `cryptography` takes memory and time, and is not needed before the first note
    from storage_ledger.ledger.proof.tree_hashes import BlockFile
    from storage_ledger.operations.heads.program import Program
    from storage_ledger.operations.heads.witness_client import ConsistencyProofs, WitnessClient
    from storage_ledger.wiring.checkpoint import proof_files

    paths = proof_files(settings)
    keeper = Keeper(CheckpointFolder(settings.archive_path), paths.lock)
    proofs = ConsistencyProofs(ledger, BlockFile(paths.blocks, ledger.ledger_id))
    places: list[Place] = [WitnessClient(each, keeper, proofs.of) for each in witnesses]
    if settings.checkpoint_tsa:
        from storage_ledger.operations.heads.time_stamps import TimeStamps

        places.append(TimeStamps(settings.checkpoint_tsa, roots, keeper))
    if settings.checkpoint_exec:
        places.append(Program(shlex.split(settings.checkpoint_exec), keeper.folder, settings.ledger_path / "checkpoint.exec"))
    return places
