"""Hashes of the ledger's tree for proofs and tiles, without reading the whole ledger for each.

They are computed from the leaf hashes, and from the roots of all full blocks of 256 leaves, which a file can keep: 125 KB for each
million entries. The file can be deleted at any time. What is computed with it must lead to a root that is known otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from storage_ledger.domain.merkle_tree import Tree, node
from storage_ledger.system import files
from storage_ledger.system.files import opened

BLOCK = 256
HASH_BYTES = 32
FILE_MODE = 0o640
LeafHashes = Callable[[int, int], Iterator[bytes]]
"""Reads the leaf hashes beyond one position up to another: `Ledger.leaf_hashes`."""


class TreeHashes:
    """Computes hashes of subtrees. Indexes count from 0. Not thread-safe.

    `blocks`: the roots of the first blocks, as `BlockFile.read` returns them; the others are computed when they are needed, and kept.
    """

    def __init__(self, leaf_hashes: LeafHashes, blocks: bytes | bytearray = b"") -> None:
        self._leaf_hashes = leaf_hashes
        self.blocks = bytearray(blocks)

    def root_of_range(self, begin: int, end: int) -> bytes:
        """Return the root over the leaves `begin` to before `end`; `begin` must be a multiple of the largest power of two within.

        Raises `IndexError` if the ledger has fewer entries.
        """
        tree, first = Tree(), begin
        if begin % BLOCK == 0:
            self.read_blocks(end // BLOCK)
            first = end - end % BLOCK
            tree.extend(self.block(number) for number in range(begin // BLOCK, first // BLOCK))
        peaks = [*tree.peaks, *Tree().extend(self._leaves(first, end)).peaks]
        if not peaks:
            return tree.root()
        root = peaks.pop()
        while peaks:
            root = node(peaks.pop(), root)
        return root

    def root(self, size: int) -> bytes:
        """Return the root of the tree of the first `size` leaves."""
        return self.root_of_range(0, size)

    def tile(self, level: int, number: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile (c2sp.org/tlog-tiles, "Merkle Tree"): 32 bytes each.

        Raises `IndexError` if the ledger has fewer entries.
        """
        first, each = number * BLOCK, BLOCK**level
        if level == 0:
            return b"".join(self._leaves(first, first + width))
        if level == 1:
            self.read_blocks(first + width)
            return bytes(self.blocks[first * HASH_BYTES : (first + width) * HASH_BYTES])
        return b"".join(self.root_of_range(index * each, (index + 1) * each) for index in range(first, first + width))

    def block(self, number: int) -> bytes:
        """Return the root of a block that is known."""
        return bytes(self.blocks[number * HASH_BYTES : (number + 1) * HASH_BYTES])

    def read_blocks(self, blocks: int) -> None:
        """Compute the roots of the first blocks, as far as they are not known. Raises as `root_of_range` does.

        If reading fails, those computed so far are kept.
        """
        known = len(self.blocks) // HASH_BYTES
        if blocks <= known:
            return
        leaves = self._leaf_hashes(known * BLOCK, blocks * BLOCK)
        for _ in range(known, blocks):
            block = list(islice(leaves, BLOCK))
            if len(block) != BLOCK:
                raise IndexError("the ledger has fewer entries")
            self.blocks += Tree().extend(block).root()

    def _leaves(self, begin: int, end: int) -> list[bytes]:
        found = list(self._leaf_hashes(begin, end)) if end > begin else []
        if len(found) != end - begin:
            raise IndexError("the ledger has fewer entries")
        return found


class BlockFile:
    """Keeps the roots of full blocks in a file. Only one process at a time may write it."""

    def __init__(self, path: Path, ledger_id: str) -> None:
        self.path = path
        self._head = hashlib.sha256(f"storage-ledger blocks of {BLOCK}\n{ledger_id}\n".encode()).digest()

    def read(self) -> bytes:
        """Return the roots in the file; none if it is missing, unreadable or another ledger's."""
        try:
            with opened(self.path, files.READ) as descriptor:
                data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        except OSError:
            return b""
        if data[:HASH_BYTES] != self._head:
            return b""
        return data[HASH_BYTES : len(data) - len(data) % HASH_BYTES]

    def write(self, blocks: bytes | bytearray) -> None:
        """Keep these roots: append what the file lacks, or write it again if it disagrees. Not synced. Raises `OSError`."""
        known = self.read()
        with opened(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode=FILE_MODE) as descriptor:
            files.set_mode_and_owner(descriptor, self.path.parent, FILE_MODE)
            if not known or not blocks.startswith(known):
                os.ftruncate(descriptor, 0)
                known = b""
                os.pwrite(descriptor, self._head, 0)
            os.ftruncate(descriptor, HASH_BYTES + len(known))
            os.lseek(descriptor, 0, os.SEEK_END)
            files.write_all(descriptor, memoryview(blocks)[len(known) :])
