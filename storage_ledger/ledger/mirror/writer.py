"""Writes the mirror, the ledger's copy on the archive volume (`ARCHIVE_PATH/.ledger/`).

An entry is mirrored before its status is sent or its upload removed. Each append is a batch of entries and the root of the tree over
all entries so far, fsynced. The ledger can be restored from the mirror alone.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import MIRROR_MISSING, LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror import refusals, segments
from storage_ledger.ledger.mirror.last_segment import FILE_MODE, READ_ENTRIES, make_mirror_folder, repair, set_aside, survey, write_segment
from storage_ledger.ledger.mirror.reader import ABOUT, FAILURES, segment_names
from storage_ledger.system import locks
from storage_ledger.system.files import (
    CREATE,
    FOLDER,
    FolderId,
    chown_like_folder,
    opened,
    opened_volume,
    set_mode_and_owner,
    translated,
    unlink_if_exists,
    write_all,
)

LOCK_WITHIN_S = 5.0
_APPEND = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class _FileState(NamedTuple):
    """Identifies a file and its size, to detect a change."""

    device: int
    inode: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> _FileState:
        return cls(status.st_dev, status.st_ino, status.st_size)


@dataclass(slots=True)
class _Tail:
    """The segment to append to. `state`: after our last write; `entries`: their number; `tree`: over all entries so far."""

    name: str
    root: FolderId
    state: _FileState
    entries: int
    tree: Tree


class Mirror:
    """Appends to the mirror. Thread-safe; several processes may append for one ledger.

    `lock_file` is on the ledger's volume, because locks may not work on a network archive. `on_recognised` gets the archive's root
    folder whenever its mirror was found to belong to this ledger.
    """

    def __init__(
        self,
        archive_root: Path,
        lock_file: Path,
        ledger: Ledger,
        *,
        on_recognised: Callable[[FolderId], None] = lambda _: None,
    ) -> None:
        self._root = archive_root
        self._lock_file = lock_file
        self._ledger = ledger
        self._on_recognised = on_recognised
        self._mutex = threading.Lock()
        self._tail: _Tail | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """The last position that this process has made durable in the mirror."""
        return self._position

    def begin(self) -> None:
        """Create the mirror of an empty ledger. Does nothing if there is a mirror, or the ledger has entries.

        Call it before the first append: a ledger with entries and an archive without a mirror do not belong together. Raises
        `Retryable` if the volume fails.
        """
        with self._alone():
            if self._ledger.last() is not None:
                return
            with self._folder(make=True) as (_, folder):
                if not segment_names(folder):
                    write_segment(folder, segments.segment_name(1), segments.header_line(self._ledger.ledger_id, Tree()))

    def check(self) -> None:
        """Check, by its last segment, that the mirror belongs to this ledger and is not ahead of it. Changes nothing.

        Raises `LedgerUnusable` (`mirror-missing`, `mirror-foreign`, `mirror-ahead`, `mirror-disagrees`), each with the command that
        repairs it, and `Retryable` if the volume fails.
        """
        with self._alone(), self._folder() as (root, folder):
            survey(folder, self._ledger)
        self._on_recognised(root)

    def catch_up(self) -> int:
        """Append the ledger's new entries, durable on return up to `position`. Returns their number.

        May be called again. After a failed write or fsync, the last segment is rewritten from the ledger under a temporary name: pages
        that the kernel dropped cannot be synced again. Raises as `check` does, but a volume that is no longer mounted
        (`archive-missing`) is `Retryable`.
        """
        try:
            with self._alone():
                count, at_end = 0, False
                while not at_end:
                    more, at_end = self._append_more()
                    count += more
                return count
        except LedgerUnusable as error:
            if error.code == MIRROR_MISSING:  # `check` found it at the start
                raise Retryable("archive-missing", "ARCHIVE_PATH no longer holds the mirror", shared=True) from error
            raise

    def rewrite(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Rebuild the mirror from the ledger, after moving an old one to `damaged/`. Returns the number of entries.

        A damaged entry is written so that readers find it damaged too. May be called again after an interruption.
        """
        with self._alone():
            with self._folder(make=True) as (_, folder):
                self._tail = None
                for name in reversed(segment_names(folder)):  # if interrupted, the mirror only ends earlier
                    set_aside(folder, name, keep_name=False)
                write_segment(folder, segments.segment_name(1), segments.header_line(self._ledger.ledger_id, Tree()))
            at_end = False
            while not at_end:
                _, at_end = self._append_more(as_they_are=True)
                on_progress(self._position)
            return self._position

    def _append_more(self, *, as_they_are: bool = False) -> tuple[int, bool]:
        """Append the next batch, at most one segment in entries and bytes. Returns its length, and whether it reached the ledger's end."""
        if self._tail is None or not self._untouched(self._tail):
            self._open()
        found: list[Entry] = []
        size, at_end = 0, False
        while len(found) < segments.SEGMENT_ENTRIES and size < segments.SEGMENT_BYTES:
            wanted = min(READ_ENTRIES, segments.SEGMENT_ENTRIES - len(found))
            some = self._ledger.read(self._position + len(found), wanted)
            found += some
            size += sum(len(entry.payload) for entry in some)
            if at_end := len(some) < wanted:
                break
        if found:
            self._append(found, as_they_are=as_they_are)
        return len(found), at_end

    def _append(self, entries: list[Entry], *, as_they_are: bool = False) -> None:
        tail = self._tail
        if tail is None:
            raise RuntimeError("the mirror must be opened before an append")
        if not as_they_are and (damaged := next(filter(faults, entries), None)):
            raise refusals.not_whole(damaged.position)
        self._tail = None  # until the append is durable, the file's contents are unknown
        tree = tail.tree.copy()
        full = tail.entries >= segments.SEGMENT_ENTRIES or tail.state.size >= segments.SEGMENT_BYTES
        head = segments.header_line(self._ledger.ledger_id, tree) if full else b""
        name = segments.segment_name(tree.size + 1) if full else tail.name
        data = head + segments.batch_bytes(self._ledger.ledger_id, tree, entries)
        with self._folder() as (root, folder):
            if root != tail.root:
                raise Retryable("mirror-moved", "another volume was mounted at ARCHIVE_PATH", shared=True)
            if full:
                unlink_if_exists(name, folder)  # left by an interrupted writer
            with opened(name, CREATE if full else _APPEND, folder) as descriptor:
                if full:
                    set_mode_and_owner(descriptor, folder, FILE_MODE)
                elif _FileState.of(os.fstat(descriptor)) != tail.state:
                    raise Retryable("mirror-moved", "another process changed the mirror's last segment", shared=True)
                write_all(descriptor, data)
                os.fsync(descriptor)
                state = _FileState.of(os.fstat(descriptor))
            if full:
                os.fsync(folder)
        self._tail = _Tail(name, root, state, (0 if full else tail.entries) + len(entries), tree)
        self._position = tree.size

    def _untouched(self, tail: _Tail) -> bool:
        with self._folder() as (root, folder):
            try:
                status = os.stat(tail.name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return root == tail.root and _FileState.of(status) == tail.state

    def _open(self) -> None:
        """Find the end, and repair the last segment."""
        self._tail = None
        with self._folder() as (root, folder):
            last = survey(folder, self._ledger)
            state = _FileState.of(repair(folder, last))
            self._tail = _Tail(last.name, root, state, last.entries, last.tree)
            self._position = last.tree.size
        self._on_recognised(root)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread of one process in at a time."""
        with self._mutex:
            descriptor = self._locked()
            try:
                with translated(FAILURES, ABOUT):
                    yield
            finally:
                locks.unlock_and_close(descriptor)

    def _locked(self) -> int:
        """Return a descriptor that holds the lock."""
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
            chown_like_folder(descriptor, self._lock_file.parent)
            try:
                _take(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise Retryable("ledger-io", f"mirror.lock: {os.strerror(error.errno or 0)}", errno=error.errno, shared=True) from error
        return descriptor

    @contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[tuple[FolderId, int]]:
        """Open the mirror's folder, and identify the archive's root folder."""
        with opened_volume(self._root, setting="ARCHIVE_PATH", code="archive-missing") as root:
            if make:
                make_mirror_folder(LEDGER_FOLDER, root)
            try:
                folder = os.open(LEDGER_FOLDER, FOLDER, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                raise refusals.missing(self._ledger) from None
            try:
                yield FolderId.of(root), folder
            finally:
                os.close(folder)


def _take(descriptor: int) -> None:
    """Take the lock. A writer holds it for one batch; a process that hangs may never release it."""
    until = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                text = f"another process has held mirror.lock for {LOCK_WITHIN_S:.0f} s"
                raise Retryable("mirror-busy", text, shared=True) from None
            time.sleep(0.02)
        else:
            return
