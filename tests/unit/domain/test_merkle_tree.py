"""The Merkle tree against published vectors, and against its definition."""

from __future__ import annotations

import hashlib

import pytest

from storage_ledger.domain.merkle_tree import Tree, consistency_path, inclusion_path, is_consistent, root_by_inclusion

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


LEAVES = [leaf(str(number).encode()) for number in range(70)]


def of_range(begin: int, end: int) -> bytes:
    return head(LEAVES[begin:end])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 64, 70])
def test_inclusion_proof_leads_to_the_root_and_no_changed_one_does(size):
    for index in range(size):
        path = inclusion_path(index, size, of_range)
        assert root_by_inclusion(LEAVES[index], index, size, path) == head(LEAVES[:size])
        if path:
            assert root_by_inclusion(LEAVES[index], index, size, [bytes(32), *path[1:]]) != head(LEAVES[:size])
            with pytest.raises(ValueError, match="short"):
                root_by_inclusion(LEAVES[index], index, size, path[:-1])
        with pytest.raises(ValueError, match="long"):
            root_by_inclusion(LEAVES[index], index, size, [*path, bytes(32)])
    with pytest.raises(ValueError, match="outside"):
        root_by_inclusion(LEAVES[0], size, size, [])


@pytest.mark.parametrize("new", [1, 2, 3, 7, 8, 9, 31, 64, 70])
def test_consistency_proof_is_valid_and_no_changed_one_is(new):
    new_root = head(LEAVES[:new])
    for old in range(1, new + 1):
        path, old_root = consistency_path(old, new, of_range), head(LEAVES[:old])
        assert is_consistent(old, old_root, new, new_root, path)
        assert not is_consistent(old, bytes(32), new, new_root, path)
        assert not is_consistent(old, old_root, new, bytes(32), path)
        assert not is_consistent(old, old_root, new, new_root, [*path, bytes(32)])
        if path:
            assert not is_consistent(old, old_root, new, new_root, path[:-1])
            assert not is_consistent(old, old_root, new, new_root, [*path[:-1], bytes(32)])
    assert not is_consistent(new + 1, new_root, new, new_root, [])
    assert is_consistent(0, b"", new, new_root, [])


def test_proofs_of_the_tree_of_seven_leaves_are_those_of_the_standard():
    """RFC 6962 §2.1.3: the tree of seven leaves, its nodes a to l."""
    d = LEAVES[:7]
    a, b, c, e, f, j = d[0], d[1], d[2], d[4], d[5], d[6]
    g, h, i = head(d[:2]), head(d[2:4]), head(d[4:6])
    k, m = head(d[:4]), head(d[4:7])
    assert inclusion_path(0, 7, of_range) == [b, h, m]
    assert inclusion_path(3, 7, of_range) == [c, g, m]
    assert inclusion_path(4, 7, of_range) == [f, j, k]
    assert inclusion_path(6, 7, of_range) == [i, k]
    assert consistency_path(3, 7, of_range) == [c, d[3], g, m]
    assert consistency_path(4, 7, of_range) == [m]
    assert consistency_path(6, 7, of_range) == [i, j, k]
    assert (a, e) == (d[0], d[4])
