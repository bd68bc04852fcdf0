"""Proofs about random trees."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from storage_ledger.domain.merkle_tree import Tree, consistency_path, inclusion_path, is_consistent, root_by_inclusion
from storage_ledger.ledger.proof.tree_hashes import TreeHashes
from storage_ledger.operations.prove import verify

LEAVES = [hashlib.sha256(str(number).encode()).digest() for number in range(1100)]
HASHES = TreeHashes(lambda after, up_to: iter(LEAVES[after:up_to]))
ROOTS = [Tree().root()]
for _tree in [Tree()]:
    for _leaf in LEAVES:
        _tree.append(_leaf)
        ROOTS.append(_tree.root())

sizes = st.integers(1, len(LEAVES))


@given(sizes, st.data())
def test_inclusion_proof_of_any_leaf_leads_to_the_root_and_no_other_path_does(size, data):
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, HASHES.root_of_range)
    assert root_by_inclusion(LEAVES[index], index, size, path) == ROOTS[size]
    assert verify.root_of(LEAVES[index], index, size, path) == ROOTS[size]
    others = [path[::-1], path[:-1], path[1:], [*path, bytes(32)], [bytes(32), *path]]
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        others.append([*path[:at], hashlib.sha256(path[at]).digest(), *path[at + 1 :]])
    for other in (each for each in others if each != path):
        for compute in (root_by_inclusion, verify.root_of):
            try:
                assert compute(LEAVES[index], index, size, other) != ROOTS[size]
            except ValueError:
                continue


@given(sizes, sizes)
def test_consistency_proof_of_any_two_trees_is_valid_and_no_other_path_is(one, other):
    old, new = sorted((one, other))
    path = consistency_path(old, new, HASHES.root_of_range)
    assert is_consistent(old, ROOTS[old], new, ROOTS[new], path)
    assert not is_consistent(old, ROOTS[old - 1], new, ROOTS[new], path)
    for changed in (path[:-1], path[1:], [*path, bytes(32)], path[::-1]):
        assert changed == path or not is_consistent(old, ROOTS[old], new, ROOTS[new], changed)
