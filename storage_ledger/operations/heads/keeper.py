"""Keeps beside a checkpoint what came back for it, in turn with whoever signs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage_ledger.domain.signed_note import Signature
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.system import locks


class Keeper:
    """The checkpoints on the archive volume, written while `checkpoint.lock` is held. `folder` may be read without it."""

    def __init__(self, folder: CheckpointFolder, lock: Path) -> None:
        self.folder = folder
        self._lock = lock

    def add_cosignature(self, size: int, signature: Signature) -> None:
        """Keep a witness's signature; durable on return. Raises `Retryable`, `LedgerBusy`."""
        with self._turn():
            self.folder.add_cosignatures(size, signature.name, signature.line)

    def add_time_stamp(self, size: int, response: bytes) -> None:
        """Keep a time stamp; durable on return. Raises `Retryable`, `LedgerBusy`."""
        with self._turn():
            self.folder.add_time_stamp(size, response)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with locks.held(self._lock, "checkpoint", waits=lambda _: None):
            yield
