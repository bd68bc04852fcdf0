"""The Merkle tree over the entries' leaf hashes: one root hash for the whole log, which any changed entry would change.

Proofs are lists of hashes, 32 bytes each: that a leaf is in a tree (inclusion), or that a tree begins with an older one (consistency).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
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
            self.peaks.append(node(left, right))
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
            root = node(peak, root)
        return root

    def copy(self) -> Tree:
        """Return an independent copy."""
        return Tree(self.size, list(self.peaks))


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(subtrees: Iterable[bytes]) -> bytes:
    """Return the root over equally large, perfect subtrees (leaves, for instance), given as their roots in order."""
    return Tree().extend(subtrees).root()


RootOfRange = Callable[[int, int], bytes]
"""Returns the root of the subtree over the leaves from one index (counted from 0) to before another."""


def inclusion_path(index: int, size: int, root_of_range: RootOfRange) -> list[bytes]:
    """Return the proof that the leaf at `index` (from 0) is in the tree of `size` leaves: RFC 6962 §2.1.1."""
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(root_of_range(middle, end))
            end = middle
        else:
            path.append(root_of_range(begin, middle))
            begin = middle
    return path[::-1]


def root_by_inclusion(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to: RFC 9162 §2.1.3.2. Raises `ValueError` if its length is wrong."""
    if not 0 <= index < size:
        raise ValueError("the index is outside the tree")
    at, last, root = index, size - 1, leaf_hash
    for each in path:
        if last == 0:
            raise ValueError("the proof is too long")
        if at & 1 or at == last:
            root = node(each, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node(root, each)
        at, last = at >> 1, last >> 1
    if last:
        raise ValueError("the proof is too short")
    return root


def consistency_path(old: int, new: int, root_of_range: RootOfRange) -> list[bytes]:
    """Return the proof that the tree of `new` leaves begins with the tree of `old` leaves (0 < old <= new): RFC 6962 §2.1.2."""
    begin, end, path, is_whole = 0, new, [], True
    while old - begin != end - begin:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(root_of_range(middle, end))
            end = middle
        else:
            path.append(root_of_range(begin, middle))
            begin, is_whole = middle, False
    return [*([] if is_whole else [root_of_range(begin, end)]), *path[::-1]]


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether a consistency proof is valid: RFC 9162 §2.1.4.2. Any tree begins with the empty one, and with itself."""
    if old > new:
        return False
    if old in {0, new}:
        return not path and (old == 0 or old_root == new_root)
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    if not hashes:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = hashes[0]
    for each in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node(each, first), node(each, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, each)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _split(size: int) -> int:
    """Return the largest power of two below `size`: the leaves of the left half."""
    return 1 << (size - 1).bit_length() - 1
