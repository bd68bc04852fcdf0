"""The folders of an archive: opens them only on the right volume, creates them, clears interrupted attempts, makes them durable."""

from __future__ import annotations

import errno as errnos
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage_ledger.archive import durable_copy
from storage_ledger.domain.paths import LEDGER_FOLDER, is_attempt, temporary_name
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.system import files
from storage_ledger.system.files import FolderId

FOLDER_MODE = 0o750
KNOWN_FOLDERS = 1024


class ArchiveFolders:
    """What one process knows about ARCHIVE_PATH and the folders in it. Thread-safe.

    `recognised`: the only root folder accepted as the archive; None: any. `lost_names`: (study_id, name) of files whose folder
    could not be fsynced and that could not be linked again either.
    """

    def __init__(self, root: Path, worker: str) -> None:
        self.root = root
        self.recognised: FolderId | None = None
        self.lost_names: set[tuple[str, str]] = set()
        self._worker = worker
        self._epochs = itertools.count(1)
        self._in_use: set[str] = set()  # temporary names of this process
        self._left: OrderedDict[str, tuple[int, bool]] = (
            OrderedDict()
        )  # study → its folder's mtime_ns after our last change, and whether that left no temporary file
        self._lock = threading.Lock()
        self._new: dict[
            str, set[int]
        ] = {}  # study → inodes that we stored there; folders created since the last successful fsync of the root
        self._lost: dict[str, set[int]] = {}  # folders that were new when an fsync of the root failed
        self._root_before: int | None = None  # the root, opened before the first new folder was created

    @contextmanager
    def opened(self, *parts: str) -> Iterator[int]:
        """Open ARCHIVE_PATH or a folder below it. Raises `Retryable` (`archive-missing`) if another volume, or none, is mounted."""
        opened_root = files.opened_volume(self.root, setting="ARCHIVE_PATH", code="archive-missing", same_as=self.recognised)
        with opened_root as root, files.opened_below(root, *parts) as folder:
            yield folder

    def make(self, root: int, *parts: str) -> bool:
        """Create the missing ones of these folders; return whether the last was new. `sync_root` makes the first one's name durable."""
        made = False
        for depth, part in enumerate(parts):
            with files.opened_below(root, *parts[:depth]) as parent:
                try:
                    made = files.make_folder(part, parent, FOLDER_MODE)
                except PermissionError as error:
                    shared = depth == 0  # no study can be created; below the root, only this folder fails
                    text = os.strerror(error.errno or 0)
                    raise Retryable("archive-not-writable", text, errno=error.errno, shared=shared) from error
                if made and depth == 0 and part != LEDGER_FOLDER:
                    self._note_new(part, root)
                if depth > 0:  # even if it existed: its creator may have been killed before the fsync
                    _sync_parent(parent, part)
        return made

    def require_own(self, root: int, study_id: str) -> None:
        """Raise `Permanent` if the folder of a study without files is another study's, because the file system treats their names as equal.

        SMB, APFS and NTFS ignore case; some of them drop a trailing dot.
        """
        with self._lock:
            if study_id in self._new:  # no folder had its name
                return
        others = {study_id.swapcase(), study_id.rstrip("."), f"{study_id}."} - {study_id}
        if any(os.path.lexists(self.root / other) for other in others) and study_id not in os.listdir(root):
            text = "the archive's file system takes the study_id for that of another study, whose folder it is"
            raise Permanent("archive-folder-taken", text)

    @contextmanager
    def temporary(self, what: str, folder: int) -> Iterator[str]:
        """Yield a temporary name that no other attempt of any process has; the file is removed at the end."""
        name = temporary_name(what, self._worker, next(self._epochs))
        self._in_use.add(name)
        try:
            yield name
        finally:
            try:
                files.unlink_if_exists(name, folder)
            finally:
                self._in_use.discard(name)

    def sweep(self, study_id: str, folder: int, *, alone: bool) -> None:
        """Remove the temporary files of killed processes. Lists a folder only if it changed since our last change.

        A live process whose temporary file is removed cannot link it and tries again. `alone`: no other thread of this process
        works in the folder, so any change is another process's.
        """
        changed, in_order = self._left.get(study_id, (0, False))
        if in_order and (not alone or changed == os.fstat(folder).st_mtime_ns):
            return
        for name in os.listdir(folder):
            if is_attempt(name) and name not in self._in_use:
                files.unlink_if_exists(name, folder)

    def leave(self, study_id: str, folder: int, *, in_order: bool) -> None:
        """Remember the folder's state after our change; `in_order`: the change succeeded, so it left no temporary file."""
        changed = os.fstat(folder).st_mtime_ns
        with self._lock:
            self._left[study_id] = changed, in_order
            self._left.move_to_end(study_id)
            if len(self._left) > KNOWN_FOLDERS:
                self._left.popitem(last=False)

    def note_ours(self, study_id: str, temporary: str, folder: int) -> None:
        """Remember which files this process stored in a folder that is not durable yet. See `discard_lost`."""
        with self._lock:
            ours = self._new.get(study_id, self._lost.get(study_id))
        if ours is not None:
            ours.add(os.stat(temporary, dir_fd=folder, follow_symlinks=False).st_ino)

    def sync_root(self) -> None:
        """Fsync ARCHIVE_PATH, through a descriptor opened before the new folders were created.

        The kernel reports an error once to each open descriptor: one opened later may miss it if another process has seen it.
        """
        with self._lock:
            new, before, self._root_before = set(self._new), self._root_before, None
        try:
            with self.opened() as root:
                durable_copy.fsync(root if before is None else before)
        except OSError:
            with self._lock:
                self._lost |= self._new
                self._new.clear()
            raise
        finally:
            if before is not None:
                os.close(before)
        with self._lock:
            for study_id in new:
                self._new.pop(study_id, None)

    def sync_whole(self, root: int) -> None:
        """Sync the whole file system: all that any process wrote to it, new folders too. Raises `OSError`.

        `root` must have been opened before anything was written that matters: errors from before it was opened may not be reported.
        """
        with self._lock:
            new = set(self._new)
        try:
            files.sync_file_system(root)
        except OSError:
            with self._lock:
                self._lost |= self._new
                self._new.clear()
            raise
        finally:
            with self._lock:
                for study_id in new:
                    self._new.pop(study_id, None)
                before = None if self._new else self._root_before
                if before is not None:  # kept longer, it might be that of a volume that is no longer mounted
                    self._root_before = None
                    os.close(before)

    def discard_lost(self, studies: Collection[str]) -> set[str]:
        """Remove the new files whose folders are not known to be durable: no entry names them, and their uploads still exist.

        Only if this process stored everything there and no other has changed the folder since: another process may have recorded
        a file there, its own or one of ours. Returns the studies that must be placed again.
        """
        with self._lock:
            lost = {study_id: self._lost[study_id] for study_id in studies if study_id in self._lost}
        for study_id, ours in lost.items():
            with suppress(FileNotFoundError), self.opened() as root, files.opened_below(root, study_id) as folder:
                names = os.listdir(folder)
                alone = self._left.get(study_id, (0, False))[0] == os.fstat(folder).st_mtime_ns
                if alone and all(os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino in ours for name in names):
                    for name in names:
                        os.unlink(name, dir_fd=folder)
                    remove_if_empty(study_id, root)
            with self._lock:
                self._lost.pop(study_id, None)
        return set(lost)

    def _note_new(self, study_id: str, root: int) -> None:
        with self._lock:
            self._new.setdefault(study_id, set())
            if self._root_before is None:
                self._root_before = os.dup(root)


def remove_if_empty(study_id: str, root: int) -> None:
    """Remove a study's folder, unless another process uses it or has removed it."""
    try:
        os.rmdir(study_id, dir_fd=root)
    except OSError as error:
        if error.errno not in {errnos.ENOENT, errnos.ENOTEMPTY, errnos.EEXIST}:
            raise


def _sync_parent(parent: int, made: str) -> None:
    try:
        durable_copy.fsync(parent)
    except OSError:
        with suppress(OSError):  # it stays if another process has stored something in it
            os.rmdir(made, dir_fd=parent)
        raise
