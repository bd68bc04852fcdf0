"""A ledger with a mirror, and what signs its checkpoints, in a folder of a test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.errors import CheckpointRefused
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.ledger.proof.tree_hashes import LeafHashes
from tests.support.making import described


class Scene:
    """A ledger with a mirror and its checkpoints."""

    def __init__(self, root: Path, ledgers, clock) -> None:
        self.root = root
        self.clock = clock
        self.archive = root / "archive"
        self.archive.mkdir()
        self.ledger = ledgers.open(root / "ledger")
        self.mirror = Mirror(self.archive, root / "mirror.lock", self.ledger)
        self.mirror.begin()
        self.folder = CheckpointFolder(self.archive)
        self.notes = self.archive / ".ledger" / "checkpoints"
        self.key = root / "checkpoint.key"

    def append(self, count: int) -> None:
        with self.ledger.write() as tx:
            for i in range(count):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm"), f"s{i}"))

    def signer(self, origin: str = "hospital.example", leaf_hashes: LeafHashes | None = None) -> Signer:
        """A new process."""
        root = self.root
        return Signer(
            self.ledger,
            self.folder,
            ProofFiles(self.key, root / "checkpoint.lock", root / "checkpoint.latest", root / "tree.cache", origin),
            clock=self.clock,
            leaf_hashes=leaf_hashes,
        )

    def mirrored(self) -> int:
        self.mirror.catch_up()
        return self.mirror.position

    def sign(self, signer: Signer | None = None) -> Checkpoint | None:
        data = (signer or self.signer()).sign(self.mirrored)
        return None if data is None else Checkpoint.parse(SignedNote.parse(data).text)

    def refused(self, signer: Signer | None = None) -> str:
        before = sorted(os.listdir(self.notes)) if self.notes.exists() else []
        with pytest.raises(CheckpointRefused) as refused:
            self.sign(signer)
        assert (sorted(os.listdir(self.notes)) if self.notes.exists() else []) == before
        return refused.value.code

    def root_of(self, size: int) -> bytes:
        return Tree().extend(entry.leaf_hash for entry in self.ledger.read(0, size)).root()
