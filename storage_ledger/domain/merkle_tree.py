"""The Merkle tree over the entries' leaf hashes: one root hash for the whole log, which any changed entry would change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Tree:
    """An RFC 6962 §2.1 tree, stored as the roots of its perfect subtrees (`peaks`, largest first), one per 1 bit of `size`."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def append(self, leaf_hash: bytes) -> None:
        """Add the next leaf, given as its hash (`canonical_json.leaf_hash`)."""
        self.peaks.append(leaf_hash)
        self.size += 1
        size = self.size
        while size % 2 == 0:
            right, left = self.peaks.pop(), self.peaks.pop()
            self.peaks.append(_node(left, right))
            size //= 2

    def extend(self, leaf_hashes: Iterable[bytes]) -> Self:
        """Add several leaves. Returns the tree itself."""
        for leaf_hash in leaf_hashes:
            self.append(leaf_hash)
        return self

    def root(self) -> bytes:
        """Return the root hash, 32 bytes; for an empty tree, SHA-256 of the empty string."""
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = _node(peak, root)
        return root

    def copy(self) -> Tree:
        """Return an independent copy."""
        return Tree(self.size, list(self.peaks))


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
