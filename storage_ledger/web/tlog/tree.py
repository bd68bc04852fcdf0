"""Hash tiles of the ledger's tree, as far as its newest checkpoint covers it (c2sp.org/tlog-tiles v0.1.0, "Merkle Tree").

Leaf hashes come from the ledger, the roots of full blocks of 256 from the cache that `serve` keeps beside it, or from the ledger as well.
Nothing is shown before all of it has led to the checkpoint's root, so that every tile belongs to the signed tree.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.merkle_tree import root_of
from storage_ledger.ledger.entry_rows import LEAF_HASHES
from storage_ledger.ledger.proof.tree_hashes import BLOCK, HASH_BYTES, BlockFile, LeafHashes, TreeHashes
from storage_ledger.system.sqlite import sqlite

STEP_BLOCKS = 256
"""Blocks computed at a time, 65,536 leaves: some tenths of a second. A cold cache is filled by as many requests as it takes."""

_ADDRESS = re.compile(r"(0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TileAddress:
    """`number` counts from 0 within its `level`; `width`: how many hashes, 256 in a full tile."""

    level: int
    number: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `<L>/<N>[.p/<W>]`; None if it is anything else, or no number is spelt like this."""
        found = _ADDRESS.fullmatch(text)
        if found is None or found[2].startswith("x000/"):
            return None
        level, width = int(found[1]), int(found[3] or BLOCK)
        if level > 63 or (found[3] is not None and width >= BLOCK):
            return None
        return cls(level, int(found[2].replace("x", "").replace("/", "")), width)


class TilesUnavailable(Exception):
    """No tile can be shown now. `again`: it is worth asking again at once."""

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


@dataclass(frozen=True, slots=True)
class CheckedTree:
    """The hashes of a tree that lead to its checkpoint's root. `last`: the leaves beyond the last full block."""

    size: int
    hashes: TreeHashes
    last: list[bytes]
    upper: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Tiles of level 2 and higher, whole as far as they go: each takes as long as 65,536 hashes."""

    def tile(self, address: TileAddress, leaf_hashes: LeafHashes) -> bytes | None:
        """Return a tile; None if the tree does not cover it. Raises `TilesUnavailable` if the ledger has changed since."""
        there = min(BLOCK, (self.size >> 8 * address.level) - BLOCK * address.number)
        if address.width > there:
            return None
        if address.level == 0:
            return b"".join(self._leaves(address.number, leaf_hashes)[: address.width])
        if address.level == 1:
            return self.hashes.tile(1, address.number, address.width)
        key = address.level, address.number
        if key not in self.upper:
            self.upper[key] = self.hashes.tile(*key, there)
        return self.upper[key][: address.width * HASH_BYTES]

    def _leaves(self, number: int, leaf_hashes: LeafHashes) -> list[bytes]:
        first = number * BLOCK
        if first + BLOCK > self.size:
            return self.last
        leaves = list(leaf_hashes(first, first + BLOCK))
        if len(leaves) != BLOCK or root_of(leaves) != self.hashes.block(number):
            raise TilesUnavailable(FORKED)
        return leaves


AGAIN_AFTER_S = 60.0
"""How long a mismatch is remembered at least, even if the ledger's file changes: all leaf hashes are then read again."""
FORKED = "checkpoint-forked: the ledger does not lead to the root of its newest checkpoint, so no tile is shown"
GROWING = "The hashes are being computed: ask again"


class TreeSource:
    """Makes the checked tree of a checkpoint from the ledger, step by step. Not thread-safe.

    Whatever strangers ask, all of it is computed once for each checkpoint at most, in the worst case twice. If the ledger does not lead to
    the checkpoint's root, it is computed again once its file has changed: the right one may be back.
    """

    def __init__(self, cache: Path, ledger: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._ledger = ledger
        self._monotonic = monotonic
        self._blocks: bytes | bytearray | None = None
        self._made: tuple[Checkpoint, CheckedTree] | None = None
        self._recomputed: tuple[Checkpoint, _State] | None = None  # without the cache, after that had led to another root
        self._refused: tuple[Checkpoint, _State] | None = None
        self._refused_until = 0.0

    def known(self, checkpoint: Checkpoint) -> CheckedTree | None:
        """Return the tree if it is there. Raises `TilesUnavailable` if the ledger has another root than the checkpoint."""
        if self._is_refused(checkpoint):
            raise TilesUnavailable(FORKED)
        made = self._made
        return made[1] if made is not None and made[0] == checkpoint else None

    def make(self, checkpoint: Checkpoint, connection: Any) -> CheckedTree:
        """Return the tree, through a connection to the ledger. Raises `TilesUnavailable` until it is there, and as `known` does."""
        found = self.known(checkpoint)
        if found is None:
            if self._refused is not None and self._refused[0] == checkpoint:
                self._begin_again(checkpoint)
            found = self._next(checkpoint, connection)
            self._made = checkpoint, found
        return found

    def _next(self, checkpoint: Checkpoint, connection: Any) -> CheckedTree:
        """Compute the next blocks, and the tree if these were the last."""
        if self._blocks is None:
            [[ledger_id]] = connection.execute("SELECT value FROM meta WHERE name = 'ledger_id'").fetchall()
            self._blocks = BlockFile(self._cache, ledger_id).read()
        full, there = checkpoint.size // BLOCK, len(self._blocks) // HASH_BYTES
        read = leaf_hashes_of(connection)
        hashes = TreeHashes(read, self._blocks)
        try:
            hashes.read_blocks(min(full, there + STEP_BLOCKS))
            last = list(read(full * BLOCK, checkpoint.size)) if there + STEP_BLOCKS >= full else None
        except IndexError:
            return self._other_root(checkpoint)
        except sqlite.OperationalError as error:
            if error.args != ("interrupted",):
                raise
            last = None  # over its time limit
        self._blocks = hashes.blocks
        if last is None:
            raise TilesUnavailable(GROWING, again=True)
        tree = TreeHashes(lambda _, __: iter(last), self._blocks)
        if len(last) != checkpoint.size % BLOCK or tree.root(checkpoint.size) != checkpoint.root:
            return self._other_root(checkpoint)
        return CheckedTree(checkpoint.size, tree, last)

    def _other_root(self, checkpoint: Checkpoint) -> NoReturn:
        """Begin again without the cache, which may be wrong; then refuse."""
        if self._recomputed is not None and self._recomputed[0] == checkpoint:
            self._refused, self._refused_until = self._recomputed, self._monotonic() + AGAIN_AFTER_S
            raise TilesUnavailable(FORKED)
        self._begin_again(checkpoint)
        raise TilesUnavailable(GROWING, again=True)

    def _is_refused(self, checkpoint: Checkpoint) -> bool:
        if self._refused is None or self._refused[0] != checkpoint:
            return False
        return self._monotonic() < self._refused_until or self._refused[1] == _state(self._ledger)

    def _begin_again(self, checkpoint: Checkpoint) -> None:
        self._blocks, self._refused, self._recomputed = b"", None, (checkpoint, _state(self._ledger))


_State = tuple[tuple[int, int, int, int] | None, ...]


def _state(ledger: Path) -> _State:
    """Return what changes when the ledger is written or replaced: that of its file, and that of its WAL."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in (ledger, f"{ledger}-wal"):
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def leaf_hashes_of(connection: Any) -> Callable[[int, int], Iterator[bytes]]:
    """Return what reads leaf hashes through a connection to the ledger."""

    def read(after: int, up_to: int) -> Iterator[bytes]:
        with closing(connection.execute(LEAF_HASHES, (after, up_to))) as cursor:
            yield from (row[0] for row in cursor)

    return read
