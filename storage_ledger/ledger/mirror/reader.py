"""Reads the mirror: its end and ledger, all entries with proof, or entries at some positions."""

from __future__ import annotations

import errno as errnos
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.mirror import segments
from storage_ledger.ledger.mirror.segments import BatchSeal, SegmentHeader
from storage_ledger.system.files import FOLDER, NO_SPACE, READ, Failure, FailureTable, opened, read_file, translated

ABOUT = f"the mirror in {LEDGER_FOLDER}/: "
FAILURES: FailureTable = {
    **dict.fromkeys(NO_SPACE, Failure("archive-full", shared=True)),
    errnos.EROFS: Failure("archive-read-only", shared=True),
    **dict.fromkeys((errnos.EACCES, errnos.EPERM), Failure("archive-not-writable", shared=True)),
    None: Failure("mirror-io", shared=True),
}
NOT_A_FILE = frozenset({errnos.ELOOP, errnos.ENOENT, errnos.EISDIR, errnos.ENXIO})
"""The errno of opening or reading a segment if something else has its name."""


@dataclass(frozen=True, slots=True)
class MirrorEnd:
    """The end of the mirror. `ledger_id`: None if no line has it; `position`: that of the last complete batch.

    `segments`: their number; `tail`: something follows the last batch, perhaps a batch that is being written.
    """

    ledger_id: str | None
    position: int
    segments: int
    tail: bool


def look(archive_root: Path) -> MirrorEnd:
    """Return the end of the mirror, from its last segments.

    Raises `OSError` if it cannot be read, `FileNotFoundError` if there is no folder or no segment. Skips a segment that is not a
    regular file.
    """
    with opened(archive_root / LEDGER_FOLDER, FOLDER) as folder:
        end = _end_of(folder)
    if not end.segments:
        raise FileNotFoundError(errnos.ENOENT, "no segment")
    return end


def mirror_position(archive_root: Path) -> int | None:
    """Return the mirror's last position; None if there is no mirror, or it cannot be read."""
    with suppress(OSError):
        end = look(archive_root)
        if end.ledger_id is not None:
            return end.position
    return None


def ledger_id_of(archive_root: Path) -> str:
    """Return the ledger_id of the mirror.

    Raises `LedgerUnusable` (`mirror-missing`, `mirror-damaged`), and `Retryable` if the volume fails.
    """
    with translated(FAILURES, ABOUT), _opened_mirror(archive_root) as folder:
        end = _end_of(folder)
    if end.ledger_id is None:
        raise LedgerUnusable("mirror-damaged", f"none of {end.segments} segments in {LEDGER_FOLDER}/ has a ledger_id")
    return end.ledger_id


def entries_at(archive_root: Path, positions: Iterable[int]) -> dict[int, Entry]:
    """Return the entries at these positions whose lines are intact. Reads only their segments; raises `OSError`."""
    wanted = set(positions)
    found: dict[int, Entry] = {}
    with opened(archive_root / LEDGER_FOLDER, FOLDER) as folder:
        names = segment_names(folder)
        firsts = [segments.first_position(name) or 1 for name in names]
        for index in sorted({bisect_right(firsts, position) - 1 for position in wanted} - {-1}):
            with suppress(OSError):  # `verify` reads all of them, and reports this one
                for _, line in segments.lines(read_segment(folder, names[index])):
                    if isinstance(line, Entry) and line.position in wanted:
                        found.setdefault(line.position, line)
    return found


def entries(
    archive_root: Path, ledger_id: str, known: Tree | None = None, *, on_proved: Callable[[int], None] = lambda _: None
) -> Iterator[Entry]:
    """Iterate over the mirror's entries in order, checking hashes, positions and the tree's root after every batch.

    The intact entries of a last batch that a crash cut short are included: they were in the ledger first. Raises `LedgerUnusable`
    (`mirror-damaged`, with segment and line) after all entries before the damage.

    With `known`, the tree over entries known already, it starts at the segment with the last of them and ignores damage up to there:
    the root of the next batch proves all of it. `on_proved` gets the position that a root has proved.
    """
    tree = known.copy() if known is not None else Tree()
    passing = tree.size > 0
    with translated(FAILURES, ABOUT), _opened_mirror(archive_root) as folder:
        names = segment_names(folder)
        begun = sum(1 for name in names if (segments.first_position(name) or 0) <= tree.size)
        for name in names[max(0, begun - 1) :]:
            if not passing and segments.first_position(name) != tree.size + 1:
                raise _damaged(name, 1, f"it should begin at position {tree.size + 1}; a segment may be missing")
            data = read_file(name, folder)
            number = 0
            for number, (_, line) in enumerate(segments.lines(data), 1):
                if passing and _goes_no_further(line, tree):
                    if isinstance(line, Entry):
                        yield line
                    continue
                passing = False
                contradiction = _contradiction(line, number, tree, ledger_id)
                if contradiction is not None:
                    raise _damaged(name, number, contradiction)
                if isinstance(line, Entry):
                    tree.append(line.leaf_hash)
                    yield line
                else:
                    on_proved(tree.size)
            if not data.endswith(b"\n") and name != names[-1]:
                raise _damaged(name, number + 1, "the line does not end")


def segment_names(folder: int) -> list[str]:
    """Return the segments in an open folder, in order. Ignores other files, which `verify` reports."""
    return sorted(name for name in os.listdir(folder) if segments.first_position(name) is not None)


def read_segment(folder: int, name: str) -> bytes:
    """Return the bytes of a segment. Raises `OSError`, with an errno of `NOT_A_FILE` if it is not a regular file."""
    with opened(name, READ, folder) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errnos.EISDIR, "not a regular file", name)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()


def _end_of(folder: int) -> MirrorEnd:
    names = segment_names(folder)
    ledger_id, position, tail = None, 0, False
    for name in reversed(names):
        try:
            data = read_segment(folder, name)
        except OSError as error:
            if error.errno in NOT_A_FILE:
                continue
            raise
        lines = [line for _, line in segments.lines(data)]
        if name == names[-1]:
            tail = not data.endswith(b"\n") or not isinstance(lines[-1], SegmentHeader | BatchSeal)
        if position == 0:
            position = max((line.size for line in lines if isinstance(line, BatchSeal)), default=0)
        if ledger_id is None:
            ledger_id = next((line.ledger_id for line in reversed(lines) if isinstance(line, SegmentHeader | BatchSeal)), None)
        if ledger_id is not None and position:
            break
    return MirrorEnd(ledger_id, position, len(names), tail)


@contextmanager
def _opened_mirror(archive_root: Path) -> Iterator[int]:
    try:
        descriptor = os.open(archive_root / LEDGER_FOLDER, FOLDER)
    except OSError as error:
        text = f"{archive_root / LEDGER_FOLDER} cannot be opened: {os.strerror(error.errno or 0)}. Check that the archive volume is mounted"
        raise LedgerUnusable("mirror-missing", text, errno=error.errno) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _goes_no_further(line: segments.MirrorLine | None, known: Tree) -> bool:
    match line:
        case Entry():
            return line.position <= known.size
        case BatchSeal():
            return line.size < known.size or (line.size, line.root) == (known.size, known.root())
        case SegmentHeader():
            return line.before.size < known.size
        case None:
            return True


def _contradiction(line: segments.MirrorLine | None, number: int, tree: Tree, ledger_id: str) -> str | None:
    """Return what is wrong with a line, given those before it; None if nothing is."""
    match line:
        case None:
            return "it is damaged"
        case Entry() if number > 1 and line.position == tree.size + 1:
            return None
        case SegmentHeader() if number == 1 and (line.ledger_id, line.before) == (ledger_id, tree):
            return None
        case BatchSeal() if number > 1 and (line.ledger_id, line.size, line.root) == (ledger_id, tree.size, tree.root()):
            return None
        case _:
            return "it does not follow from the lines before it"


def _damaged(name: str, line: int, text: str) -> LedgerUnusable:
    return LedgerUnusable("mirror-damaged", f"{LEDGER_FOLDER}/{name}, line {line}: {text}")
