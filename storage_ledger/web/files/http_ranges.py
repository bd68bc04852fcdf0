"""Conditional and range requests (RFC 9110 §13, §14). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`count` bytes from byte `first` of a file of `size` bytes."""

    first: int
    count: int
    size: int

    @property
    def is_partial(self) -> bool:
        """Return whether the range is less than the whole file."""
        return self.count != self.size

    @property
    def content_range(self) -> str:
        """The value of the Content-Range header."""
        return f"bytes {self.first}-{self.first + self.count - 1}/{self.size}"


def is_current(headers: Mapping[str, str], tag: str) -> bool:
    """Return whether the client has the content with this tag (§13.1.2), so that the response is 304."""
    tags = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
    return f'"{tag}"' in tags or tags == ["*"]


def requested_range(method: str, headers: Mapping[str, str], size: int, etag: str) -> ByteRange | None:
    """Return the requested range, or None if it starts beyond the end of the file (416).

    Without a valid range, or if `If-Range` no longer matches, the range is the whole file. Multiple ranges and other units are
    ignored, as §14.2 allows.
    """
    whole = ByteRange(0, size, size)
    text = headers.get("range", "")
    found = _RANGE.fullmatch(text.replace(" ", "")) if method == "GET" else None
    if found is None or headers.get("if-range", etag) != etag or not (found[1] or found[2]):
        return whole
    if not found[1]:
        count = min(int(found[2]), size)
        return ByteRange(size - count, count, size) if count else None
    first, last = int(found[1]), min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < first:
        return whole  # an invalid range is ignored
    return ByteRange(first, last - first + 1, size) if first < size else None
