"""Asks a witness to cosign checkpoints: the client of c2sp.org/tlog-witness v1.0.0."""

from __future__ import annotations

import threading
from collections.abc import Callable

from typing_extensions import override

from storage_ledger.domain.merkle_tree import consistency_path
from storage_ledger.domain.signed_note import MARK, Signature
from storage_ledger.domain.witnesses import Submission, Witness, read_size
from storage_ledger.errors import CHECKPOINT_FORKED, WITNESS_SAW_FORK, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.cosignatures import cosigned_at
from storage_ledger.ledger.proof.tree_hashes import BlockFile, TreeHashes
from storage_ledger.operations.heads.keeper import Keeper
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.system.http_connection import BROKEN
from storage_ledger.system.http_post import Reply, post

WITHIN_S = 10.0
MOST_BYTES = 65_536
LATER = frozenset({408, 425, 429})
"""Answers, besides 5xx, of a server that may accept the same request later."""


class WitnessClient(Place):
    """One witness. Remembers the size that it has cosigned, which the witness itself tells at first."""

    def __init__(self, witness: Witness, keeper: Keeper, proof_of: Callable[[int, Head], list[bytes]]) -> None:
        self.name = f"witness {witness.key.name}"
        self._witness = witness
        self._keeper = keeper
        self._proof_of = proof_of
        self._seen = 0

    @override
    def has(self, head: Head) -> bool:
        kept = self._keeper.folder.cosignatures(head.checkpoint.size)
        return cosigned_at(head.text, kept, self._witness.key) is not None

    @override
    def take(self, head: Head, stop: threading.Event) -> None:
        del stop  # the deadline of a request is short enough
        size = head.checkpoint.size
        reply = self._ask(head)
        if reply.code == 409 and (seen := read_size(reply.body)) is not None and seen != self._seen:
            if seen > size:
                raise Retryable(WITNESS_SAW_FORK, f"it has cosigned {seen} entries of this ledger, whose last checkpoint has {size}")
            self._seen = seen
            reply = self._ask(head)
        self._check_code(reply, head)
        found = cosigned_at(head.text, _signatures(reply.body), self._witness.key)
        if found is None:
            raise Retryable("witness-refused", "its answer has no valid signature of the configured key")
        self._keeper.add_cosignature(size, found[0])
        self._seen = size

    def _ask(self, head: Head) -> Reply:
        old = min(self._seen, head.checkpoint.size)
        body = Submission(old, tuple(self._proof_of(old, head)), head.note).data
        try:
            return post(f"{self._witness.url}/add-checkpoint", body, "text/plain; charset=utf-8", within_s=WITHIN_S, most_bytes=MOST_BYTES)
        except (*BROKEN, OSError) as error:
            raise Retryable("witness-away", type(error).__name__) from error

    def _check_code(self, reply: Reply, head: Head) -> None:
        code = reply.code
        if code == 200:
            return
        if code >= 500 or code in LATER:
            raise Retryable("witness-away", f"HTTP {code}")
        if self._seen and (code == 422 or (code == 409 and read_size(reply.body) == self._seen)):
            text = f"it has cosigned a tree of {self._seen} entries that this ledger's {head.checkpoint.size} entries do not continue"
            raise Retryable(WITNESS_SAW_FORK, text)
        raise Retryable("witness-refused", f"HTTP {code}")


def _signatures(body: bytes) -> list[Signature]:
    """Return the signature lines of an answer; lines that are none are ignored, as are unknown keys later."""
    found = []
    for line in body.decode("utf-8", "replace").split("\n"):
        if line.startswith(MARK):
            try:
                found.append(Signature.parse(line))
            except ValueError:
                continue
    return found


class ConsistencyProofs:
    """Computes consistency proofs from the ledger's leaf hashes, with the roots of blocks that the signer keeps."""

    def __init__(self, ledger: Ledger, blocks: BlockFile) -> None:
        self._ledger = ledger
        self._blocks = blocks

    def of(self, old: int, head: Head) -> list[bytes]:
        """Return the proof that the checkpoint's tree begins with the tree of `old` entries.

        Raises `Retryable` (`checkpoint-forked`) if the ledger does not have the checkpoint's tree; the signer reports that, too.
        """
        size = head.checkpoint.size
        if old in {0, size}:
            return []
        for blocks in (self._blocks.read(), b""):  # without the file if it is wrong
            hashes = TreeHashes(self._ledger.leaf_hashes, blocks)
            try:
                if hashes.root(size) == head.checkpoint.root:
                    return consistency_path(old, size, hashes.root_of_range)
            except IndexError:
                continue
        raise Retryable(CHECKPOINT_FORKED, f"the ledger does not have the {size} entries that its last checkpoint signs")
