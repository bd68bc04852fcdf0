"""Makes proofs that entries are in a signed checkpoint: one text for each entry, in the format c2sp.org/tlog-proof.

docs/reference/hashes.md describes the extra data that an entry's hash is computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from storage_ledger.domain import canonical_json
from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Entry, header, require_whole
from storage_ledger.domain.merkle_tree import inclusion_path, root_by_inclusion
from storage_ledger.domain.signed_note import encoded
from storage_ledger.errors import CHECKPOINT_FORKED, ProofError
from storage_ledger.ledger.proof.tree_hashes import BLOCK, LeafHashes, TreeHashes
from storage_ledger.operations.prove.covering import SignedCheckpoint

FORMAT = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof of the entry at `position`: the bytes of a .tlog-proof file."""

    position: int
    data: bytes

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.position}{SUFFIX}"


def proofs(
    entries: Sequence[Entry], signed: SignedCheckpoint, leaf_hashes: LeafHashes, blocks: bytes, *, with_payload: bool
) -> list[Proof]:
    """Return a proof of each entry, each checked against the root that was signed.

    `blocks`: what `BlockFile.read` returns. If a proof does not lead to the root, all are computed again from the leaf hashes alone.

    Raises `ProofError` (`checkpoint-forked`) if the ledger no longer has the tree that was signed, and `Retryable` (`entry-damaged`).
    """
    require_whole(entries)
    found = _paths(entries, signed.checkpoint, leaf_hashes, blocks)
    if found is None and blocks:
        found = _paths(entries, signed.checkpoint, leaf_hashes, b"")
    if found is None:
        text = f"the ledger no longer has the tree of its checkpoint of {signed.checkpoint.size} entries: some were changed or removed"
        raise ProofError(CHECKPOINT_FORKED, f"{text}. Run `storage-ledger verify`")
    return [Proof(each.position, _text(each, path, signed.joined, with_payload)) for each, path in zip(entries, found, strict=True)]


def _paths(entries: Sequence[Entry], checkpoint: Checkpoint, leaf_hashes: LeafHashes, blocks: bytes) -> list[list[bytes]] | None:
    """Return the path of each entry; None if one does not lead to the root."""
    root_of_range = cache(TreeHashes(_block_by_block(leaf_hashes, checkpoint.size), blocks).root_of_range)
    found = []
    try:
        for entry in entries:
            path = inclusion_path(entry.position - 1, checkpoint.size, root_of_range)
            if root_by_inclusion(entry.leaf_hash, entry.position - 1, checkpoint.size, path) != checkpoint.root:
                return None
            found.append(path)
    except IndexError:  # the ledger has fewer entries
        return None
    return found


def _block_by_block(leaf_hashes: LeafHashes, size: int) -> LeafHashes:
    """Read the leaf hashes of a block once: the paths of neighbouring entries have most of them in common."""

    @cache
    def block(number: int) -> list[bytes]:
        return list(leaf_hashes(number * BLOCK, min((number + 1) * BLOCK, size)))

    def read(after: int, up_to: int) -> Iterator[bytes]:
        if after // BLOCK != (up_to - 1) // BLOCK:
            return leaf_hashes(after, up_to)
        first = after - after % BLOCK
        return iter(block(after // BLOCK)[after - first : up_to - first])

    return read


def _text(entry: Entry, path: Sequence[bytes], note: bytes, with_payload: bool) -> bytes:
    extra = {"header": header(entry).decode()}
    if with_payload:
        extra |= {"payload": entry.payload, "salt": entry.salt.hex()}
    lines = [
        FORMAT,
        f"extra {encoded(canonical_json.dumps(extra).encode())}",
        f"index {entry.position - 1}",
        *map(encoded, path),
    ]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode() + note
