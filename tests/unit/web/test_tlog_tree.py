"""Hash tiles of a tree of 70,000 leaves, against the plain definition: RFC 6962 §2.1, c2sp.org/tlog-tiles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.ledger.proof.tree_hashes import BlockFile
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.tlog.tree import (
    AGAIN_AFTER_S,
    FORKED,
    STEP_BLOCKS,
    CheckedTree,
    TileAddress,
    TilesUnavailable,
    TreeSource,
    leaf_hashes_of,
)

SIZE = 70_000
ID = "an id"


def leaf(index: int) -> bytes:
    return hashlib.sha256(b"%d" % index).digest()


def level_of(hashes: list[bytes]) -> list[bytes]:
    """Return the next level of tiles: the root of each full 256."""
    roots = []
    for first in range(0, len(hashes) - 255, 256):
        layer = hashes[first : first + 256]
        while len(layer) > 1:
            layer = [hashlib.sha256(b"\x01" + layer[i] + layer[i + 1]).digest() for i in range(0, len(layer), 2)]
        roots += layer
    return roots


@cache
def levels() -> list[list[bytes]]:
    leaves = [leaf(index) for index in range(SIZE)]
    return [leaves, level_of(leaves), level_of(level_of(leaves))]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Any]:
    with closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE meta (name, value)")
        connection.execute("INSERT INTO meta VALUES ('ledger_id', ?)", (ID,))
        connection.execute("CREATE TABLE entries (position INTEGER PRIMARY KEY, leaf_hash)")
        connection.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(levels()[0], 1))
        yield connection


def checkpoint(size: int, root: bytes | None = None) -> Checkpoint:
    return Checkpoint(ID, size, root or Tree().extend(levels()[0][:size]).root())


def made(source: TreeSource, of: Checkpoint, ledger: Any, most: int = 10) -> tuple[CheckedTree, int]:
    """Ask until the tree is there; return it, and how often it took."""
    for times in range(1, most + 1):
        try:
            return source.make(of, ledger), times
        except TilesUnavailable as error:
            if not error.again:
                raise
    raise AssertionError("it is never there")


@pytest.fixture(scope="module")
def tree(ledger, tmp_path_factory) -> CheckedTree:
    return made(TreeSource((folder := tmp_path_factory.mktemp("empty")) / "none", folder / "ledger.db"), checkpoint(SIZE), ledger)[0]


def test_each_tile_has_the_hashes_of_its_level_as_far_as_the_tree_goes(tree, ledger):
    found = 0
    for level, hashes in enumerate(levels()):
        for number in range(len(hashes) // 256 + 1):
            there = hashes[256 * number : 256 * number + 256]
            for width in {1, len(there) // 2, len(there) - 1, len(there)} & set(range(1, 257)):
                assert tree.tile(TileAddress(level, number, width), leaf_hashes_of(ledger)) == b"".join(there[:width])
                found += 1
            for width in {len(there) + 1, 256} - {len(there), 257}:
                assert tree.tile(TileAddress(level, number, width), leaf_hashes_of(ledger)) is None
    assert found > 1000
    for beyond in (TileAddress(3, 0, 1), TileAddress(0, 274, 1), TileAddress(63, 0, 1), TileAddress(0, 10**20, 256)):
        assert tree.tile(beyond, leaf_hashes_of(ledger)) is None


def test_an_address_has_one_spelling():
    parse = TileAddress.parse
    assert parse("0/000") == TileAddress(0, 0, 256)
    assert parse("63/x001/x234/067.p/255") == TileAddress(63, 1_234_067, 255)
    wrong = [
        "", "0", "0/0", "00/000", "64/000", "-1/000", "0/000/", "0/x001", "0/x000/001", "0/1000", "0/001/000", "0/000.p/0", "0/000.p/256",
        "0/000.p/01", "0/000.p/", "0/000.p", "0/000.p/1/", "+0/000", "0/\u0660\u0660\u0660", "0/000\n", "entries/000",
        "0/" + "x001/" * 7 + "000",
    ]  # fmt: skip
    assert [text for text in wrong if parse(text) is not None] == []


def test_a_cold_cache_is_filled_by_several_requests_and_a_warm_one_is_used(ledger, tmp_path):
    blocks = SIZE // 256
    statements: list[str] = []
    ledger.set_trace_callback(statements.append)
    with pytest.raises(TilesUnavailable):
        TreeSource(tmp_path / "none", tmp_path / "ledger.db").make(checkpoint(SIZE), ledger)
    ledger.set_trace_callback(None)
    assert f"position <= {STEP_BLOCKS * 256} " in statements[-1]
    assert made(TreeSource(tmp_path / "none", tmp_path / "ledger.db"), checkpoint(SIZE), ledger)[1] == -(-blocks // STEP_BLOCKS) == 2
    file = BlockFile(tmp_path / "tree.cache", ID)
    file.write(b"".join(levels()[1][:-5]))
    source = TreeSource(file.path, tmp_path / "ledger.db")
    assert made(source, checkpoint(SIZE - 256), ledger)[1] == 1
    assert made(source, checkpoint(SIZE), ledger)[1] == 1
    assert source.known(checkpoint(SIZE)) is not None
    assert source.known(checkpoint(SIZE - 1)) is None
    assert made(source, checkpoint(1), ledger)[0].size == 1, "an older checkpoint, if the newest one is away"


def test_a_cache_that_is_wrong_is_computed_again(ledger, tmp_path):
    file = BlockFile(tmp_path / "tree.cache", ID)
    file.write(b"".join([*levels()[1][:-1], bytes(32)]))
    found, times = made(TreeSource(file.path, tmp_path / "ledger.db"), checkpoint(SIZE), ledger)
    assert (found.tile(TileAddress(1, 1, 17), leaf_hashes_of(ledger)), times) == (b"".join(levels()[1][256:]), 3)


@pytest.mark.parametrize("size", [600, SIZE, SIZE + 1, SIZE + 256])
def test_a_ledger_with_another_root_than_the_checkpoint_shows_no_tile(ledger, tmp_path, size: int):
    source, of = TreeSource(tmp_path / "none", tmp_path / "ledger.db"), checkpoint(size, bytes(32))
    with pytest.raises(TilesUnavailable, match=FORKED):
        made(source, of, ledger)
    for _ in range(3):
        with pytest.raises(TilesUnavailable, match=FORKED):
            source.make(of, None)  # it is not computed again
    assert made(source, checkpoint(500), ledger)[0].size == 500


def test_a_mismatch_is_looked_at_again_when_the_ledger_has_changed_but_once_a_minute_at_most(ledger, tmp_path):
    (file := tmp_path / "ledger.db").write_bytes(b"old")
    now = [1000.0]
    source, of = TreeSource(tmp_path / "none", file, monotonic=lambda: now[0]), checkpoint(600)
    ledger.execute("UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 300")
    try:
        with pytest.raises(TilesUnavailable, match=FORKED):
            made(source, of, ledger)
    finally:
        ledger.execute("UPDATE entries SET leaf_hash = ? WHERE position = 300", (levels()[0][299],))
    now[0] += AGAIN_AFTER_S
    with pytest.raises(TilesUnavailable, match=FORKED):
        source.make(of, None)  # the file is the same
    (tmp_path / "ledger.db-wal").write_bytes(b"new")
    now[0] -= 1
    with pytest.raises(TilesUnavailable, match=FORKED):
        source.make(of, None)
    now[0] += 1
    assert made(source, of, ledger)[1] == 1
    assert source.known(of) is not None


def test_an_entry_that_is_changed_later_is_not_shown(ledger, tree):
    ledger.execute("UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 300")
    try:
        with pytest.raises(TilesUnavailable, match=FORKED):
            tree.tile(TileAddress(0, 1, 3), leaf_hashes_of(ledger))
        assert tree.tile(TileAddress(0, 0, 3), leaf_hashes_of(ledger)) == b"".join(levels()[0][:3])
        assert tree.tile(TileAddress(1, 0, 3), leaf_hashes_of(ledger)) == b"".join(levels()[1][:3])
    finally:
        ledger.execute("UPDATE entries SET leaf_hash = ? WHERE position = 300", (levels()[0][299],))


def test_a_disk_that_is_slow_loses_no_progress(ledger, tmp_path):
    """The time limit interrupts a read; what is known by then is kept."""
    stops = iter(range(10))
    source, of = TreeSource(tmp_path / "none", tmp_path / "ledger.db"), checkpoint(SIZE)
    ledger.set_progress_handler(lambda: next(stops, 0) == 5, 10_000)
    try:
        with pytest.raises(TilesUnavailable) as error:
            source.make(of, ledger)
        assert error.value.again
    finally:
        ledger.set_progress_handler(None, 0)
    assert made(source, of, ledger)[1] == 1, "from the beginning it takes two"
