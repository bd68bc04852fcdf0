"""Which deliveries of a message one outcome answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_ledger.domain.redeliveries import DescribedUpload, repeats_of, with_repeats


def deliveries(text: str) -> list[DescribedUpload]:
    """`a1 b1 a2`: of the uploads a, b and a, with the digests 1, 1 and 2, at positions 1, 2, 3."""
    return [DescribedUpload(position, each[0], each[1:]) for position, each in enumerate(text.split(), 1)]


def by_upload(described: list[DescribedUpload]) -> dict[str, list[DescribedUpload]]:
    return {path: [each for each in described if each.upload_path == path] for path in {each.upload_path for each in described}}


@pytest.mark.parametrize(
    ("said", "position", "expected"),
    [
        ("a1", 1, []),
        ("a1 a1 a1", 1, [2, 3]),
        ("a1 a1 a1", 2, [1, 3]),
        ("a1 b1 a1", 1, [3]),
        ("a1 a2 a1", 1, []),
        ("a1 a2 a1", 2, []),
        ("a1 a2 a1", 3, [1]),
        ("a1 a1 a2 a1 a1", 1, [2]),
        ("a1 a1 a2 a1 a1", 4, [1, 2, 5]),
    ],
)
def test_what_came_earlier_and_what_follows_up_to_the_first_that_says_something_else(said, position, expected):
    described = deliveries(said)
    assert repeats_of(described[position - 1], described) == expected
    others = [each for each in described if each.position != position]
    assert repeats_of(described[position - 1], others) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", {}),
        ("a1 b1", {1: [], 2: []}),
        ("a1 a1 b1 a1 b1", {1: [2, 4], 3: [5]}),
        ("a1 a1 a2 a1", {1: [2], 3: [], 4: []}),
    ],
)
def test_each_delivery_is_placed_or_answered_by_one_that_is(said, expected):
    described = deliveries(said)
    assert with_repeats(described, by_upload(described)) == expected
    assert with_repeats(reversed(described), by_upload(described)) == expected


def test_what_is_answered_already_still_stands_between_two_messages():
    first, other, last = described = deliveries("a1 a2 a1")
    assert with_repeats([first, last], by_upload(described)) == {1: [], 3: []}
    assert with_repeats([first, other], by_upload(described)) == {1: [], 2: []}


@given(st.lists(st.sampled_from(["a1", "a2", "b1"]), max_size=12))
def test_the_last_word_about_an_upload_is_never_answered_by_an_earlier_one_that_said_something_else(said):
    described = deliveries(" ".join(said))
    found = with_repeats(described, by_upload(described))
    answer = {position: position for position in found} | {repeat: first for first, repeats in found.items() for repeat in repeats}
    assert answer.keys() == {each.position for each in described}
    for each in described:
        since = [other for other in described[answer[each.position] - 1 : each.position] if other.upload_path == each.upload_path]
        assert {other.raw_sha256 for other in since} == {each.raw_sha256}
