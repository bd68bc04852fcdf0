"""Conditional and range requests (RFC 9110 §13, §14)."""

from __future__ import annotations

import pytest

from storage_ledger.web.files.http_ranges import ByteRange, is_current, requested_range

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-4", 2, 3),
        ("bytes=2-", 2, 8),
        ("bytes=-3", 7, 3),
        ("bytes=-100", 0, 10),
        ("bytes = 2-4", 2, 3),
        ("bytes=9-100", 9, 1),
        ("", 0, 10),
        ("bytes=-", 0, 10),
        ("bytes=4-2", 0, 10),
        ("bytes=0-1,4-5", 0, 10),
        ("lines=0-1", 0, 10),
    ],
)
def test_a_range_that_is_understood_is_kept_to_and_any_other_means_the_whole_file(text: str, first: int, count: int):
    assert requested_range("GET", {"range": text}, 10, ETAG) == ByteRange(first, count, 10)


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_beyond_the_end_of_the_file_is_refused(text: str):
    assert requested_range("GET", {"range": text}, 10, ETAG) is None


def test_a_range_of_content_that_has_changed_since_means_the_whole_file():
    assert requested_range("GET", {"range": "bytes=0-0", "if-range": '"old"'}, 10, ETAG) == ByteRange(0, 10, 10)
    assert requested_range("GET", {"range": "bytes=0-0", "if-range": ETAG}, 10, ETAG) == ByteRange(0, 1, 10)


def test_only_a_get_has_a_range():
    assert requested_range("HEAD", {"range": "bytes=0-0"}, 10, ETAG) == ByteRange(0, 10, 10)


def test_a_range_says_whether_it_is_part_of_the_file_and_which():
    assert ByteRange(2, 3, 10).content_range == "bytes 2-4/10"
    assert ByteRange(2, 3, 10).is_partial
    assert not ByteRange(0, 10, 10).is_partial


@pytest.mark.parametrize(
    ("text", "current"),
    [('"abc"', True), ('W/"abc"', True), ('"x", "abc"', True), ("*", True), ('"x"', False), ("", False)],
)
def test_a_client_names_the_content_that_it_has(text: str, current: bool):
    assert is_current({"if-none-match": text}, "abc") is current
