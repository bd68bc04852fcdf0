"""`verified` entries → `files.fixity` and `files.verified_at`.

An entry names ranges of `files.position`. Every file in them that was placed up to `up_to` was read and is intact, except those in
`findings` and `unchecked`. This keeps the entry small for any number of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LedgerUnusable

# Findings about a file's bytes; other codes say nothing about them.
FIXITY = {"file-missing": "missing", "file-changed": "changed", "file-replaced": "changed"}

Range = tuple[int, int]


def is_understood(entry: Entry) -> bool:
    """Return whether the entry has everything that `apply` needs."""
    try:
        positions = [*_unchecked(entry), *(each["position"] for each in entry.data["findings"] if each["code"] in FIXITY)]
        numbers = [_up_to(entry), *positions, *(number for each in _ranges(entry) for number in each)]
    except (KeyError, TypeError, ValueError, AttributeError, LedgerUnusable):
        return False
    return all(isinstance(number, int) for number in numbers)


def apply(sql: Callable[..., Any], entry: Entry) -> None:
    """Update `files` from one `verified` entry; all entries before it must already be in the index."""
    _write(sql, entry, _ranges(entry))


def apply_all(sql: Callable[..., Any], newest_first: Iterable[Entry | None]) -> None:
    """Update `files`, in which all other entries are already folded, from all `verified` entries, newest first.

    The result equals `apply` of each in order, but each file is written once: the archive may have been verified a thousand times.
    """
    done: list[Range] = []
    for entry in newest_first:
        if entry is None:
            continue
        ranges = _without(_ranges(entry), done)
        if ranges:
            _write(sql, entry, ranges)
            done = _joined(done + _without(ranges, _points(_unchecked(entry) | _placed_later(sql, entry, ranges))))


def _write(sql: Callable[..., Any], entry: Entry, ranges: list[Range]) -> None:
    data = entry.data
    up_to = _up_to(entry)
    for first, last in _without(ranges, _points(_unchecked(entry))):
        sql(
            "UPDATE files SET fixity = 'intact', verified_at = ? WHERE position BETWEEN ? AND ? AND placed <= ?",
            (entry.recorded_at, first, last, up_to),
        )
    for found in data["findings"]:
        fixity = FIXITY.get(found["code"])
        if fixity is not None and any(first <= found["position"] <= last for first, last in ranges):
            sql("UPDATE files SET fixity = ? WHERE position = ? AND placed <= ?", (fixity, found["position"], up_to))


def _placed_later(sql: Callable[..., Any], entry: Entry, ranges: list[Range]) -> set[int]:
    """Return files placed again after they were verified: this entry says nothing about them, but an older, longer run may."""
    statement = "SELECT position FROM files WHERE position BETWEEN ? AND ? AND placed > ?"
    return {row[0] for each in ranges for row in sql(statement, (*each, _up_to(entry)))}


def _up_to(entry: Entry) -> int:
    return min(int(entry.data["scope"]["up_to"]), entry.position)  # an entry says nothing about later ones


def _ranges(entry: Entry) -> list[Range]:
    return [(first, last) for first, last in entry.data["scope"].get("ranges", [])]


def _unchecked(entry: Entry) -> set[int]:
    return {each["position"] for each in entry.data["unchecked"] if isinstance(each["position"], int)}


def _points(positions: Iterable[int]) -> list[Range]:
    return [(position, position) for position in sorted(positions)]


def _without(ranges: list[Range], taken: list[Range]) -> list[Range]:
    """Return `ranges` minus `taken`; both are ascending."""
    left: list[Range] = []
    index = 0
    for first, last in ranges:
        begin = first
        while index < len(taken) and taken[index][1] < begin:
            index += 1
        at = index
        while at < len(taken) and taken[at][0] <= last:
            if taken[at][0] > begin:
                left.append((begin, taken[at][0] - 1))
            begin = max(begin, taken[at][1] + 1)
            at += 1
        if begin <= last:
            left.append((begin, last))
    return left


def _joined(ranges: list[Range]) -> list[Range]:
    """Return the ranges in ascending order, overlaps merged."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined
