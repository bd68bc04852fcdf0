"""Writes the ledger's copy on the archive volume (`ARCHIVE_PATH/.ledger/`). No status is sent and no upload removed before it.

It follows the ledger by position, as the index does. Each append is a batch of entries and the root of the tree over all entries
so far, fsynced. The ledger can be re-created from it alone.
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
    """Tells whether a file is still the one that we left, and as long."""

    device: int
    inode: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> _FileState:
        return cls(status.st_dev, status.st_ino, status.st_size)


@dataclass(slots=True)
class _Tail:
    """The segment that is appended to. `state`: as we left it; `entries`: how many it holds; `tree`: over all so far."""

    name: str
    root: FolderId
    state: _FileState
    entries: int
    tree: Tree


class Mirror:
    """Appends to the mirror; safe from several threads, and several processes may do it for one ledger.

    `lock_file` is on the ledger's volume: the archive may be a network file system, where locks do not hold. `on_recognised` gets
    the archive's root folder whenever the mirror in it was found to be this ledger's.
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
        """Up to which position this process has made the mirror durable."""
        return self._position

    def begin(self) -> None:
        """Make the mirror of a ledger that has no entries yet. Nothing happens if there is a mirror, or if there are entries.

        Nothing may be appended to the ledger before this has succeeded: a ledger with entries, and an archive without a mirror, do
        not belong together. Raises `Retryable` when the volume fails.
        """
        with self._alone():
            if self._ledger.last() is not None:
                return
            with self._folder(make=True) as (_, folder):
                if not segment_names(folder):
                    write_segment(folder, segments.segment_name(1), segments.header_line(self._ledger.ledger_id, Tree()))

    def check(self) -> None:
        """Check by its last segment that the mirror is this ledger's and not ahead of it. Changes nothing.

        Raises `LedgerUnusable` (`mirror-missing`, `mirror-foreign`, `mirror-ahead`, `mirror-disagrees`), each with the command that
        puts it right, and `Retryable` when the volume fails.
        """
        with self._alone(), self._folder() as (root, folder):
            survey(folder, self._ledger)
        self._on_recognised(root)

    def catch_up(self) -> int:
        """Append what the ledger has beyond the mirror. It is durable on return, up to `position`. Returns the number of entries.

        May be called twice. After a write or fsync that failed, the last segment is written once more from the ledger, under
        another name first: what the kernel dropped cannot be synced again. Raises as `check` does, but a volume that is no longer
        mounted (`archive-missing`) is `Retryable`.
        """
        try:
            with self._alone():
                count = 0
                while entries := self._more():
                    self._append(entries)
                    count += len(entries)
                return count
        except LedgerUnusable as error:
            if error.code == MIRROR_MISSING:  # it was there at the start
                raise Retryable("archive-missing", "ARCHIVE_PATH holds no mirror any more", shared=True) from error
            raise

    def rewrite(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Write the whole mirror from the ledger. An old one is moved to `damaged/` first.

        A damaged entry is written as it is, and readers of the mirror take it for damaged too. Returns the number of entries. May be
        called again after it was interrupted.
        """
        with self._alone():
            with self._folder(make=True) as (_, folder):
                self._tail = None
                for name in reversed(segment_names(folder)):  # cut short, it leaves a mirror that only ends earlier
                    set_aside(folder, name, keep_name=False)
                write_segment(folder, segments.segment_name(1), segments.header_line(self._ledger.ledger_id, Tree()))
            while entries := self._more():
                self._append(entries, as_they_are=True)
                on_progress(self._position)
            return self._position

    def _more(self) -> list[Entry]:
        """The next batch: no more than a segment takes, and no more than a segment's bytes in memory."""
        if self._tail is None or not self._untouched(self._tail):
            self._open()
        found: list[Entry] = []
        size = 0
        while len(found) < segments.SEGMENT_ENTRIES and size < segments.SEGMENT_BYTES:
            wanted = min(READ_ENTRIES, segments.SEGMENT_ENTRIES - len(found))
            some = self._ledger.read(self._position + len(found), wanted)
            found += some
            size += sum(len(entry.payload) for entry in some)
            if len(some) < wanted:
                break
        return found

    def _append(self, entries: list[Entry], *, as_they_are: bool = False) -> None:
        tail = self._tail
        if tail is None:
            raise RuntimeError("the mirror is opened before it is appended to")
        if not as_they_are and (damaged := next(filter(faults, entries), None)):
            raise refusals.not_whole(damaged.position)
        self._tail = None  # until it is durable nobody knows what the file holds
        tree = tail.tree.copy()
        full = tail.entries >= segments.SEGMENT_ENTRIES or tail.state.size >= segments.SEGMENT_BYTES
        head = segments.header_line(self._ledger.ledger_id, tree) if full else b""
        name = segments.segment_name(tree.size + 1) if full else tail.name
        data = head + segments.batch_bytes(self._ledger.ledger_id, tree, entries)
        with self._folder() as (root, folder):
            if root != tail.root:
                raise Retryable("mirror-moved", "another volume has been mounted at ARCHIVE_PATH meanwhile", shared=True)
            if full:
                unlink_if_exists(name, folder)  # left by somebody who was interrupted
            with opened(name, CREATE if full else _APPEND, folder) as descriptor:
                if full:
                    set_mode_and_owner(descriptor, folder, FILE_MODE)
                elif _FileState.of(os.fstat(descriptor)) != tail.state:
                    raise Retryable("mirror-moved", "the mirror's last segment has been changed meanwhile", shared=True)
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
        """One thread of one process at a time."""
        with self._mutex:
            descriptor = self._locked()
            try:
                with translated(FAILURES, ABOUT):
                    yield
            finally:
                locks.unlock_and_close(descriptor)

    def _locked(self) -> int:
        """A descriptor that holds the lock."""
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
        """The mirror's folder, open, and the archive's root folder that it lies in."""
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
    """Take the lock. A writer holds it for one batch, but a process that hangs may hold it for ever."""
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
