"""The Merkle tree against published vectors, and against its definition."""

from __future__ import annotations

import hashlib

import pytest

from storage_ledger.domain.merkle_tree import Tree

# The inputs and heads that Certificate Transparency's implementations test RFC 6962 with.
INPUTS = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
HEADS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def head(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + head(leaves[:k]) + head(leaves[k:])).digest()


def test_the_heads_are_those_of_the_published_vectors():
    tree = Tree()
    assert tree.root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for data, expected in zip(INPUTS, HEADS, strict=True):
        tree.append(leaf(data))
        assert tree.root().hex() == expected


@pytest.mark.parametrize("size", [*range(18), 63, 64, 65, 300])
def test_the_running_head_is_the_defined_one(size):
    leaves = [leaf(str(i).encode()) for i in range(size)]
    assert Tree().extend(leaves).root() == head(leaves)


def test_a_copy_grows_by_itself():
    tree = Tree().extend([leaf(b"a")])
    tree.copy().append(leaf(b"b"))
    assert (tree.size, tree.root()) == (1, leaf(b"a"))
