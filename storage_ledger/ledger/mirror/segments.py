"""The line format of the mirror, which can be read without this program: docs/reference/mirror.md.

    storage-ledger-mirror ⇥ 1 ⇥ ledger_id ⇥ entries before this segment ⇥ their tree's peaks ⇥ SHA-256 of the line so far
    entry ⇥ leaf_hash ⇥ salt ⇥ header ⇥ payload
    batch ⇥ ledger_id ⇥ entries so far ⇥ root of their tree ⇥ SHA-256 of the line so far

Bytes are in lower-case hex; header and payload are canonical JSON, which has no tab or line feed. So each line shows by itself
whether it is intact.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Entry, faults, header
from storage_ledger.domain.merkle_tree import Tree

FORMAT = "storage-ledger-mirror\t1"
SEGMENT_ENTRIES = 4096
SEGMENT_BYTES = 8 << 20
"""A segment is full when it reaches either limit; the next batch begins another one."""
NAME = re.compile(r"([0-9]{12})\.entries", re.ASCII)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first line of a segment. `before` is the tree over the entries of earlier segments."""

    ledger_id: str
    before: Tree


@dataclass(frozen=True, slots=True)
class BatchSeal:
    """The last line of a batch, which is fsynced as a whole. `size` counts entries from position 1; `root` is that of their tree."""

    ledger_id: str
    size: int
    root: bytes


MirrorLine = SegmentHeader | Entry | BatchSeal


def segment_name(first: int) -> str:
    """Return the name of the segment whose first entry is at position `first`."""
    return f"{first:012d}.entries"


def first_position(name: str) -> int | None:
    """Return the position of a segment's first entry, from its name; None if it is not a segment's name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found and int(found[1]) > 0 else None


def header_line(ledger_id: str, before: Tree) -> bytes:
    """Return the first line of a segment."""
    return _with_digest(f"{FORMAT}\t{ledger_id}\t{before.size}\t{','.join(peak.hex() for peak in before.peaks)}")


def entry_line(entry: Entry) -> bytes:
    """Return the line of an entry. `parse` finds the line of a damaged entry damaged too."""
    try:
        line = f"entry\t{entry.leaf_hash.hex()}\t{entry.salt.hex()}\t{header(entry).decode()}\t{entry.payload}\n"
    except (TypeError, ValueError, AttributeError):  # a column has another type, or its text is not UTF-8
        line = f"entry\t{json.dumps(entry, default=repr)}\n"
    return line.encode("utf-8", "surrogateescape")


def batch_line(ledger_id: str, size: int, root: bytes) -> bytes:
    """Return the line that seals all entries so far."""
    return _with_digest(f"batch\t{ledger_id}\t{size}\t{root.hex()}")


def batch_bytes(ledger_id: str, tree: Tree, entries: Iterable[Entry]) -> bytes:
    """Return the lines of a batch and its seal. Adds the entries to `tree`."""
    lines = []
    for entry in entries:
        tree.append(entry.leaf_hash)
        lines.append(entry_line(entry))
    return b"".join((*lines, batch_line(ledger_id, tree.size, tree.root())))


def parse(line: bytes) -> MirrorLine | None:
    """Parse a line without its line feed; None unless it is, byte for byte, a line that this module writes.

    Returns an entry only if payload and header match their hashes. Whether it is the right entry, or a batch has the right root, only
    a reader of all lines can check.
    """
    try:
        kind, *fields = line.decode("utf-8").split("\t")
        match kind, fields:
            case "entry", [leaf_hash, salt, head, payload]:
                found: MirrorLine = Entry(
                    **canonical_json.loads(head), payload=payload, salt=bytes.fromhex(salt), leaf_hash=bytes.fromhex(leaf_hash)
                )
            case "batch", [ledger_id, size, root, _]:
                found = BatchSeal(ledger_id, int(size), bytes.fromhex(root))
            case "storage-ledger-mirror", [_, ledger_id, size, peaks, _]:
                found = SegmentHeader(ledger_id, Tree(int(size), [bytes.fromhex(peak) for peak in peaks.split(",") if peak]))
            case _:
                return None
        return found if _render(found) == line + b"\n" and not (isinstance(found, Entry) and faults(found)) else None
    except (ValueError, TypeError, RecursionError):
        return None


def lines(data: bytes) -> Iterator[tuple[int, MirrorLine | None]]:
    """Iterate over the complete lines, each with its offset. A torn last line is left out."""
    offset = 0
    while (end := data.find(b"\n", offset)) >= 0:
        yield offset, parse(data[offset:end])
        offset = end + 1


def _render(line: MirrorLine) -> bytes:
    match line:
        case Entry():
            return entry_line(line)
        case BatchSeal(ledger_id, size, root):
            return batch_line(ledger_id, size, root)
        case SegmentHeader(ledger_id, before):
            return header_line(ledger_id, before)


def _with_digest(text: str) -> bytes:
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()}\n".encode()
