"""Check the mirror byte by byte against the ledger: every line, every Merkle root, and where it ends.

A whole `batch` line removed from the middle goes unnoticed, because the remaining lines are valid without it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import CHECKPOINTS_FOLDER, DAMAGED_FOLDER, LEDGER_FOLDER
from storage_ledger.ledger.mirror import segments
from storage_ledger.ledger.mirror.reader import NOT_A_FILE, read_segment
from storage_ledger.ledger.mirror.segments import BatchSeal, SegmentHeader
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader
from storage_ledger.system.files import FOLDER, opened

PART = "mirror"
TEMPORARY = ".segment.tmp"
LEAVES = 4096


@dataclass(frozen=True, slots=True)
class CheckedMirror:
    """The result. `position`: where the last batch ends; `tail`: something follows the last batch.

    `path`: where the next line would go; `reported`: damage at the end has been reported.
    """

    position: int
    tail: bool
    path: str
    reported: bool


class MirrorCheck:
    """Reads all segments in step with the ledger's leaf hashes; holds one segment in memory.

    Adjoining damaged lines are reported as one finding. `damaged`: positions at which the ledger itself is damaged.
    """

    def __init__(
        self,
        facts: UntrustingReader,
        archive_root: Path,
        ledger_id: str,
        found: Findings,
        damaged: set[int],
        *,
        stopped: Callable[[], None] = lambda: None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._facts = facts
        self._root = archive_root
        self._ledger_id = ledger_id
        self._found = found
        self._damaged = damaged
        self._stopped = stopped
        self._on_progress = on_progress
        self._tree = Tree()
        self._other: Tree | None = None  # after an entry that differs: the tree with the mirror's entry instead of the ledger's
        self._leaves: dict[int, bytes] = {}
        self._wrong: tuple[str, int, int] | None = None  # the last region: path, and the line and position after it
        self._ended: tuple[str, bool] | None = None  # the segment before: path, and whether it was full
        self._sealed = 0  # position at which the last batch ends
        self._next_line = 1
        self._blind = False  # neither ledger nor mirror has an entry: roots cannot be checked until the next segment

    def run(self, *, quiet_tail: bool) -> CheckedMirror:
        """Check everything; with `quiet_tail`, leave what follows the last batch to the caller: `serve` may be writing it."""
        position, tail, path, reported = 0, False, LEDGER_FOLDER, False
        with opened(self._root / LEDGER_FOLDER, FOLDER) as folder:
            names = self._names(folder)
            for name in names:
                self._stopped()
                is_last = name == names[-1]
                path = f"{LEDGER_FOLDER}/{name}"
                self._begins(name)
                try:
                    data = read_segment(folder, name)
                except OSError as error:
                    self._unreadable(path, error)
                    self._ended = (path, True)
                    reported = is_last
                    continue
                tail = self._segment(path, data, is_last=is_last, quiet_tail=quiet_tail)
                position = self._sealed
                reported = self._wrong is not None and self._wrong[:2] == (path, self._next_line)
                self._on_progress(self._tree.size)
        if self._ended and self._ended[1] and names:
            path = f"{LEDGER_FOLDER}/{segments.segment_name(position + 1)}"
        return CheckedMirror(position, tail, path, reported)

    def _names(self, folder: int) -> list[str]:
        names = []
        for name in sorted(os.listdir(folder)):
            if segments.first_position(name) is not None:
                names.append(name)
            elif name in {DAMAGED_FOLDER, CHECKPOINTS_FOLDER} and stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                continue
            elif name != TEMPORARY:  # left by an interrupted write, which is redone first
                self._found.report("untracked-file", PART, path=f"{LEDGER_FOLDER}/{name}", detail="not a file of the mirror")
        return names

    def _begins(self, name: str) -> None:
        """Check that the segment continues where the one before it ended; otherwise entries are missing in between."""
        first = segments.first_position(name) or 1
        missing = self._tree.size + 1
        if first > missing:
            lost = f"{LEDGER_FOLDER}/{segments.segment_name(missing)}"
            path, full = self._ended or (lost, True)
            if not (self._wrong and self._wrong[2] == missing and self._wrong[0] == path):
                text = f"entries {missing} to {first - 1} are missing"
                self._found.report("mirror-damaged", PART, position=missing, path=lost if full else path, detail=text)
            self._fill(first - 1)
        self._wrong = None

    def _segment(self, path: str, data: bytes, *, is_last: bool, quiet_tail: bool) -> bool:
        before = self._tree.size
        self._sealed = before
        sealed_line = number = 0
        end = 0
        for number, (offset, line) in enumerate(segments.lines(data), 1):
            end = data.index(b"\n", offset) + 1
            self._line(path, number, line, first=number == 1)
            if self._tree.size and isinstance(line, BatchSeal) and line.size == self._tree.size:
                self._sealed, sealed_line = self._tree.size, number
        rest = len(data) - end
        tail = rest > 0 or (self._tree.size > self._sealed and sealed_line < number)
        if (rest or tail) and not (is_last and quiet_tail):
            text = "the file does not end with a complete line" if rest else "the file does not end with the seal of a batch"
            self._region(path, number + 1, self._tree.size + 1, text)
            self._sealed = self._tree.size
        self._next_line = number + 1
        full = self._tree.size - before >= segments.SEGMENT_ENTRIES or len(data) >= segments.SEGMENT_BYTES
        self._ended = (path, full)
        return tail

    def _line(self, path: str, number: int, line: segments.MirrorLine | None, *, first: bool) -> None:
        expected = self._tree.size + 1
        match line:
            case SegmentHeader(ledger_id, before) if first:
                if self._blind and before.size == self._tree.size:
                    self._tree, self._other, self._blind = before.copy(), None, False
                other = self._other is not None and before == self._other
                if ledger_id != self._ledger_id or not (before == self._tree or other):
                    self._region(path, number, expected, "the first line is wrong")
            case Entry() if not first:
                self._entry(path, number, line, expected)
            case BatchSeal() if not first:
                self._batch(path, number, line, expected)
            case _:
                text = "the line is corrupt" if line is None else "the line does not belong here"
                self._region(path, number, expected, text)

    def _entry(self, path: str, number: int, entry: Entry, expected: int) -> None:
        if entry.position < expected:
            self._region(path, number, expected, f"entry {entry.position} is repeated or out of place")
            return
        if entry.position > expected:
            # A position far beyond the ledger's last is not a gap but a line that does not belong here.
            if entry.position > max(self._facts.last(), expected) + segments.SEGMENT_ENTRIES:
                self._region(path, number, expected, "the line does not belong here")
                return
            self._region(path, number, expected, f"entries {expected} to {entry.position - 1} are missing")
            self._fill(entry.position - 1)
        own = self._leaf(entry.position)
        if own is None or own == entry.leaf_hash:
            self._grow(entry.leaf_hash, entry.leaf_hash)
        else:
            self._found.report(
                "mirror-disagrees",
                PART,
                position=entry.position,
                study_id=entry.study_id,
                path=path,
                detail=f"line {number}: ledger and mirror have different entries, each with valid hashes",
            )
            self._grow(own, entry.leaf_hash)

    def _batch(self, path: str, number: int, batch: BatchSeal, expected: int) -> None:
        if batch.ledger_id != self._ledger_id or batch.size < self._tree.size or batch.size == self._sealed:
            self._region(path, number, expected, "the line does not belong here")
            return
        if batch.size > self._tree.size:
            if batch.size > max(self._facts.last(), self._tree.size):
                self._region(path, number, expected, "the line does not belong here")
                return
            self._region(path, number, expected, f"entries {expected} to {batch.size} are missing")
            self._fill(batch.size)
        if batch.root == self._tree.root():
            self._other = None
        elif self._other is not None and batch.root == self._other.root():
            self._tree, self._other = self._other, None  # the mirror is consistent; the entry that differs has been reported
        elif not self._blind:
            self._region(path, number, batch.size, "the root does not match the entries before it")

    def _region(self, path: str, line: int, position: int, text: str) -> None:
        """Report damage, unless the line before was already reported."""
        if self._wrong is None or self._wrong[:2] != (path, line):
            self._found.report("mirror-damaged", PART, position=position, path=path, detail=f"line {line}: {text}")
        self._wrong = (path, line + 1, self._tree.size + 1)

    def _unreadable(self, path: str, error: OSError) -> None:
        if error.errno in NOT_A_FILE:
            self._found.report("mirror-damaged", PART, position=self._tree.size + 1, path=path, detail="not a regular file")
        else:
            text = os.strerror(error.errno or 0)
            self._found.unseen("mirror-io", PART, position=self._tree.size + 1, path=path, detail=text)
        self._wrong = (path, 1, self._tree.size + 1)

    def _grow(self, ours: bytes, theirs: bytes) -> None:
        if ours != theirs and self._other is None:
            self._other = self._tree.copy()
        self._tree.append(ours)
        if self._other is not None:
            self._other.append(theirs)

    def _fill(self, up_to: int) -> None:
        """Continue with the ledger's entries where the mirror has none."""
        while self._tree.size < up_to:
            leaf = self._leaf(self._tree.size + 1)
            self._blind = self._blind or leaf is None
            self._grow(leaf or b"", leaf or b"")

    def _leaf(self, position: int) -> bytes | None:
        """Return the ledger's leaf hash, if undamaged; otherwise the one found in the mirror, or None."""
        if position in self._damaged:
            repaired = self._facts.repaired.get(position)
            return repaired.leaf_hash if repaired is not None else None
        if position not in self._leaves:
            self._leaves = dict(self._facts.leaves(position - 1, LEAVES))
        return self._leaves.get(position)
