"""Surveys and repairs the mirror's last segment.

Its writer may have been killed, or its fsync may have failed. So before the first append it is rewritten from the ledger, under a
temporary name first.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import DAMAGED_FOLDER
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror import refusals, segments
from storage_ledger.ledger.mirror.reader import segment_names
from storage_ledger.ledger.mirror.segments import BatchSeal, SegmentHeader
from storage_ledger.system import logs
from storage_ledger.system.files import FOLDER, READ, make_folder, opened, read_file, replace_file

FOLDER_MODE = 0o750
FILE_MODE = 0o640
READ_ENTRIES = 256
_TEMPORARY = ".segment.tmp"


@dataclass(frozen=True, slots=True)
class LastSegment:
    """The last segment as composed from the ledger.

    `data`: its bytes up to the last batch; `tree`: over all entries so far; `entries`: the number in the segment. `whole`: the file on
    disk agrees; `torn`: bytes of an incomplete batch that follow.
    """

    name: str
    data: bytes
    tree: Tree
    entries: int
    whole: bool
    torn: int


def survey(folder: int, ledger: Ledger) -> LastSegment:
    """Read the last segment and compose it from the ledger. Changes nothing.

    Raises `LedgerUnusable` (see `refusals`) if there is no segment, or mirror and ledger contradict each other.
    """
    names = segment_names(folder)
    if not names:
        raise refusals.missing(ledger)
    name = names[-1]
    data = read_file(name, folder)
    before = (segments.first_position(name) or 1) - 1
    header: SegmentHeader | None = None
    sizes: list[int] = []
    mirrored: list[Entry] = []
    ids: set[str] = set()
    for _, line in segments.lines(data):
        match line:
            case SegmentHeader():
                header = line
                ids.add(line.ledger_id)
            case BatchSeal():
                sizes.append(line.size)
                ids.add(line.ledger_id)
            case Entry():
                mirrored.append(line)
    last = ledger.last()
    position = last.position if last else 0
    if ids and ids != {ledger.ledger_id}:
        raise refusals.foreign(ledger, min(ids - {ledger.ledger_id}), position)
    claimed = max([before, *sizes, *(entry.position for entry in mirrored)])
    if claimed > position:
        raise refusals.ahead(claimed, position)
    recorded = _as_recorded(ledger, mirrored, before, claimed)
    tree = _tree_before(ledger, folder, names, header, before)
    composed = [segments.header_line(ledger.ledger_id, tree)]
    count = 0
    for size in sizes:
        batch = [recorded[p] for p in range(tree.size + 1, size + 1)]
        if batch:
            composed.append(segments.batch_bytes(ledger.ledger_id, tree, batch))
            count += len(batch)
    right = b"".join(composed)
    # Only entries of an incomplete batch and a torn line may follow the last batch.
    rest = data[len(right) :]
    whole = right.startswith(data) or (data.startswith(right) and all(isinstance(line, Entry) for _, line in segments.lines(rest)))
    return LastSegment(name, right, tree, count, whole=whole, torn=len(rest) if whole else 0)


def repair(folder: int, last: LastSegment) -> os.stat_result:
    """Rewrite the segment from the ledger, durable on return. A damaged one is kept in `damaged/`. Returns the new file's state."""
    if not last.whole:
        set_aside(folder, last.name, keep_name=True)
        logs.get().error("mirror.damaged", position=last.tree.size)
    elif last.torn:
        logs.get().info("mirror.repaired", position=last.tree.size, bytes=last.torn)
    return write_segment(folder, last.name, last.data)


def write_segment(folder: int, name: str, data: bytes) -> os.stat_result:
    """Write or replace a segment, durable on return. Returns its state."""
    return replace_file(name, data, folder, FILE_MODE, temporary=_TEMPORARY)


def set_aside(folder: int, name: str, *, keep_name: bool) -> None:
    """Move a segment to `damaged/` as evidence. With `keep_name` the old name stays until it is replaced."""
    make_mirror_folder(DAMAGED_FOLDER, folder)
    with opened(DAMAGED_FOLDER, FOLDER, folder) as damaged:
        if keep_name:
            os.link(name, free_name(damaged, name), src_dir_fd=folder, dst_dir_fd=damaged, follow_symlinks=False)
        else:
            os.rename(name, free_name(damaged, name), src_dir_fd=folder, dst_dir_fd=damaged)
        os.fsync(damaged)
    if not keep_name:
        os.fsync(folder)


def make_mirror_folder(name: str, parent: int) -> None:
    """Create a folder if it is missing; its name is durable on return."""
    if make_folder(name, parent, FOLDER_MODE):
        os.fsync(parent)


def _as_recorded(ledger: Ledger, mirrored: list[Entry], after: int, up_to: int) -> dict[int, Entry]:
    """Return the ledger's entries by position. A damaged one is taken from the mirror, which may have the only intact copy."""
    recorded: dict[int, Entry] = {}
    while after < up_to:
        some = ledger.read(after, min(READ_ENTRIES, up_to - after))
        recorded.update((entry.position, entry) for entry in some)
        after += len(some)
    for entry in mirrored:
        own = recorded.get(entry.position)
        if own is not None and faults(own):
            recorded[entry.position] = entry
        elif own is not None and own.leaf_hash != entry.leaf_hash:
            raise refusals.disagrees(entry.position)
    return recorded


def _tree_before(ledger: Ledger, folder: int, names: list[str], header: SegmentHeader | None, before: int) -> Tree:
    """Return the tree over earlier segments: from the two lines that state it, or from the ledger if they disagree."""
    if before == 0:
        return Tree()
    if header is not None and header.before.size == before and len(names) > 1:
        seal = _last_line(folder, names[-2])
        if isinstance(seal, BatchSeal) and (seal.size, seal.root) == (before, header.before.root()):
            return header.before.copy()
    tree = Tree()
    while tree.size < before:
        tree.extend(entry.leaf_hash for entry in ledger.read(tree.size, min(READ_ENTRIES, before - tree.size)))
    return tree


def _last_line(folder: int, name: str) -> segments.MirrorLine | None:
    with opened(name, READ, folder) as descriptor:
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, 4096, max(0, size - 4096))
    return segments.parse(end[:-1].rpartition(b"\n")[2]) if end.endswith(b"\n") else None


def free_name(damaged: int, name: str) -> str:
    """Return a name that nothing has in the open folder of evidence: this one, with the time."""
    taken = set(os.listdir(damaged))
    return next(n for i in range(len(taken) + 1) if (n := f"{name}.{time.time_ns() // 1_000_000}{f'.{i}' if i else ''}") not in taken)
