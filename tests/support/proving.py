"""A ledger of a few hundred entries with a signed and cosigned checkpoint, and what is needed to prove things about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage_ledger.domain.checkpoint import cosigned
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.signed_note import COSIGNATURE, Signature, VerifierKey
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.keys import recorded_keys
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.ledger.proof.tree_hashes import BlockFile
from storage_ledger.operations.prove.covering import SignedCheckpoint, newest, require_covered
from storage_ledger.operations.prove.proofs import Proof, proofs
from tests.support.making import archived, described

CONTENT = "one DICOM file, let us say"
STUDY = "S-proved"
COSIGNED_AT = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class Witness:
    """A witness with a key made from its name."""

    name: str

    @property
    def private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.name.encode().ljust(32, b"-"))

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, COSIGNATURE, self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def cosign(self, text: str, at: int = COSIGNED_AT) -> str:
        """Return the signature line."""
        return Signature(self.name, self.key.key_id, at.to_bytes(8, "big") + self.private.sign(cosigned(at, text))).line


class Proving:
    """A ledger in a folder, with its checkpoints."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root = root
        self.ledger = ledger
        (root / "archive" / ".ledger").mkdir(parents=True)
        self.folder = CheckpointFolder(root / "archive")
        self.notes = root / "archive" / ".ledger" / "checkpoints"
        self.blocks = BlockFile(root / "tree.cache", ledger.ledger_id)

    def fill(self, before: int = 300, after: int = 100) -> None:
        """Append a study of three entries between many others."""
        with self.ledger.write() as tx:
            for i in range(before):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm"), f"s{i}"))
            first = tx.append(NewEntry(Kind.DESCRIBED, described("a.dcm"), STUDY))
            placed = tx.append(NewEntry(Kind.ARCHIVED, archived("a.dcm", content=CONTENT), STUDY, first.position))
            told = {"status": "archived", "http_status": 200, "attempts": 1, "tells": [placed.position]}
            tx.append(NewEntry(Kind.STATUS_SENT, told, STUDY, placed.position))
            for i in range(after):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm"), f"t{i}"))

    def sign(self, witnesses: Sequence[Witness] = ()) -> bytes:
        """Sign a checkpoint of all entries, and have it cosigned. Return the note with all signatures."""
        files = ProofFiles(self.root / "k", self.root / "lock", self.root / "latest", self.blocks.path, "hospital.example")
        signer = Signer(self.ledger, self.folder, files, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))
        note = signer.sign(lambda: self.ledger.last().position)
        text = note.decode().partition("\n\n")[0] + "\n"
        for witness in witnesses:
            self.folder.add_cosignatures(self.size, witness.name, witness.cosign(text))
        return self.folder.joined(self.size)

    @property
    def size(self) -> int:
        return self.ledger.last().position

    @property
    def keys(self) -> list[VerifierKey]:
        return [VerifierKey.parse(each.vkey) for each in recorded_keys(self.ledger)]

    def policy(self, *lines: str) -> str:
        """Return a policy with the ledger's keys; by default no witness is needed."""
        return "".join(f"{line}\n" for line in [*(f"log {key.text}" for key in self.keys), *(lines or ["quorum none"])])

    def covering(self, position: int = 1) -> SignedCheckpoint:
        found = newest(self.folder, self.ledger.ledger_id, self.keys)
        require_covered(found, position)
        return found

    def proofs(self, study_id: str = STUDY, *, with_payload: bool = True) -> list[Proof]:
        entries = list(self.ledger.study(study_id))
        return proofs(entries, self.covering(), self.ledger.leaf_hashes, self.blocks.read(), with_payload=with_payload)
