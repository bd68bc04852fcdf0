"""The uploads folder: opens described files, never anything else, and removes them once they are archived.

unlink(2) cannot check that a name still belongs to a particular file, so an upload is removed in steps: it is renamed to a hidden
name, compared again, and only then unlinked. If it turns out to be another file, it gets its name back. A hidden name left by a
crash is found by the work item that made it, or by the reconciler.
"""

from __future__ import annotations

import errno as errnos
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.archive.safe_unlink import Lease, hidden_name, hidden_position, leased, recover, release_lease, take_lease
from storage_ledger.errors import UPLOAD_MISSING, Permanent, Retryable
from storage_ledger.system import files
from storage_ledger.system.files import Failure, FolderId

MAX_DEPTH = 32
"""Deepest nesting of folders that a walk enters; each is open meanwhile."""

_READING: files.FailureTable = {
    errnos.ENOENT: Failure("upload-missing", text="no such file"),
    errnos.ENOTDIR: Failure("upload-missing", text="a part of its path is not a folder"),
    errnos.ELOOP: Failure("upload-is-link", permanent=True),
    errnos.ENAMETOOLONG: Failure("upload-name-too-long", permanent=True),
    errnos.EACCES: Failure("upload-unreadable"),
    errnos.EPERM: Failure("upload-unreadable"),
    None: Failure("upload-io"),
}
_REMOVING: files.FailureTable = {
    errnos.EROFS: Failure("uploads-read-only", shared=True),
    errnos.EACCES: Failure("upload-not-removable", shared=True),
    errnos.EPERM: Failure("upload-not-removable", shared=True),
    None: Failure("upload-io"),
}


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identifies one state of one file: a write or a replacement changes it."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Return the identity from the result of fstat or lstat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_but_for_its_name(self, other: FileIdentity) -> bool:
        """Compare, ignoring the change time (`ctime`), which a rename sets."""
        return (self.device, self.inode, self.size, self.modified_ns) == (other.device, other.inode, other.size, other.modified_ns)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A regular file below UPLOADS_PATH, open for reading. Its reader calls `beat` before each megabyte.

    `identity` and `links` (the number of names, or hard links) are from when it was opened.
    """

    descriptor: int
    identity: FileIdentity
    beat: Callable[[], None] = lambda: None
    links: int = 1

    @property
    def size(self) -> int:
        """Return its size in bytes when it was opened."""
        return self.identity.size

    @property
    def is_being_written(self) -> bool:
        """Return whether somebody has it open for writing, if the kernel tells: see `safe_unlink.take_lease`."""
        writer = take_lease(self.descriptor) is Lease.WRITER
        release_lease(self.descriptor)  # a writer that comes now need not wait
        return writer

    def check_complete(self) -> None:
        """Raise `Retryable` for a file that is not a complete upload but may become one.

        `upload-empty`: it has no bytes. `upload-hard-linked`: it has another name too. A writer that publishes by link and unlink
        causes that for a moment; if it stays, it may be anybody's file, in uploads or elsewhere on the volume.
        """
        if self.size == 0:
            raise Retryable("upload-empty", "the file is empty")
        if self.links > 1:
            raise Retryable("upload-hard-linked", f"the file has {self.links} names (hard links); an upload has one")

    def check_unchanged(self) -> None:
        """Raise `Retryable` if somebody wrote to it since it was opened: the bytes read may never have existed as one file."""
        if FileIdentity.of(os.fstat(self.descriptor)) != self.identity:
            raise Retryable("upload-changing", "the file changed while it was read")


@dataclass(frozen=True, slots=True)
class FoundUpload:
    """What a walk found at `path`. `code`: why it is not an upload (a link, say) or is unreadable; then `identity` may be None.

    `path` is decoded by `os.fsdecode`: bytes that are not UTF-8 are lone surrogates in it.
    """

    path: str
    identity: FileIdentity | None
    code: str | None = None


class KeptFolder:
    """The last folder of uploads that a batch used: it stays open, so that a folder with many uploads is opened once. For one thread.

    Another folder may take its path meanwhile, so `close` it before anything that takes long.
    """

    def __init__(self) -> None:
        self.path: str | None = None
        self.descriptor = -1
        self.root = FolderId(0, 0)

    def keep(self, path: str, folder: int, root: FolderId) -> None:
        """Keep this open folder instead of the last one, until `close`; the caller may close its own descriptor."""
        self.close()
        self.path, self.descriptor, self.root = path, os.dup(folder), root

    def close(self) -> None:
        """Close the folder. It may be followed by `keep`."""
        if self.path is not None:
            self.path = None
            files.close_after_reading(self.descriptor)


class Uploads:
    """UPLOADS_PATH. Links in that path itself are followed, but none below it.

    An unmounted volume usually leaves an empty folder. So if the path is an empty folder, and not the one in which files were
    found before, a missing file is reported as `uploads-missing`.
    """

    def __init__(self, root: Path, *, ledger_id: str = "") -> None:
        self.root = root
        self._owner = hashlib.sha256(ledger_id.encode()).hexdigest()[:8]
        self._found_in: FolderId | None = None

    @contextmanager
    def open(self, path: str, beat: Callable[[], None] = lambda: None) -> Iterator[OpenUpload]:
        """Open the file at `path` (relative, as resolved by `domain.paths`).

        Raises `Permanent` for a link, FIFO, device, socket or directory, without opening it; `Retryable` for what may
        still appear: `upload-missing`, `upload-unreadable`, `uploads-missing` (the whole folder; shared), `upload-io`.
        """
        with self._parent(path) as (folder, name, root), files.translated(_READING):
            _refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            descriptor = os.open(name, files.READ, dir_fd=folder)
            try:
                status = os.fstat(descriptor)
                _refuse_special(status.st_mode)  # it may have been replaced since the check above
                self._found_in = root
                yield OpenUpload(descriptor, FileIdentity.of(status), beat, status.st_nlink)
            finally:
                files.close_after_reading(descriptor)

    def identity_of(self, path: str, kept: KeptFolder | None = None) -> FileIdentity | None:
        """Return the identity of the file at this path, or None if it cannot be an upload. Raises `Retryable` as `open` does."""
        try:
            with self._parent(path, kept) as (folder, name, root), files.translated(_READING):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                self._found_in = root
        except (Permanent, Retryable) as error:
            if error.code == UPLOAD_MISSING or isinstance(error, Permanent):
                return None
            raise
        return FileIdentity.of(status) if stat.S_ISREG(status.st_mode) else None

    def walk(self) -> Generator[FoundUpload]:
        """Yield everything below UPLOADS_PATH except readable folders, in no order. Opens only folders and follows no link.

        Memory does not grow with the number of files; a folder is open while it is walked. A file that appears or disappears meanwhile
        may be found or not. Raises `Retryable` (`uploads-missing`) at the start.
        """
        with self._parent("_") as (root, _, _):
            yield from _walk(root, "", 1)

    def remove(self, path: str, identity: FileIdentity, position: int, *, settled: bool, kept: KeptFolder | None = None) -> None:
        """Unlink the file if it still has this identity; not durable before `sync_folders`. Does nothing if it is gone.

        `position`: of the `archived` entry; the hidden name contains it. `settled`: it has not changed for long enough to count as
        complete if the kernel cannot tell whether somebody is writing to it.
        Raises `Retryable`: `upload-changing` if it is another file now (which keeps its name) or somebody has it open for writing;
        `upload-settling` if that is unknown and it is not `settled`; a shared cause if we may not remove it: foreign owner, read-only
        file system.
        """
        hidden = hidden_name(self._owner, position)
        with self._parent(path, kept) as (folder, name, _), files.translated(_REMOVING):
            recover(folder, name, hidden)
            try:
                with leased(name, folder) as (given, now):
                    if given is Lease.WRITER:
                        raise Retryable("upload-changing", "somebody has it open for writing")
                    if now is not None and FileIdentity.of(now) != identity:
                        raise Retryable("upload-changing", "it changed since it was looked at")
                    if given is not Lease.GIVEN and not settled:
                        raise Retryable("upload-settling", "nobody can tell whether it is still being written")
                    os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
                    if FileIdentity.of(os.stat(hidden, dir_fd=folder, follow_symlinks=False)).is_but_for_its_name(identity):
                        os.unlink(hidden, dir_fd=folder)
                        return
            except FileNotFoundError:
                return
            recover(folder, name, hidden)
            raise Retryable("upload-changing", "another file took its name since it was looked at")

    def hidden_position(self, path: str) -> int | None:
        """Return the position of the `archived` entry in the hidden name of an upload being removed, or None for any other path."""
        return hidden_position(self._owner, path.rpartition("/")[2])

    def recover(self, path: str, position: int) -> bool:
        """Rename an upload that a crash left under the hidden name of `position` back to its own name; return False if there was none.

        Durable on return. If another file has the name now, the hidden one gets a visible name beside it.
        Raises `Retryable` as `remove` does; `Permanent` if a folder on the way is a link.
        """
        try:
            with self._parent(path) as (folder, name, _), files.translated(_REMOVING):
                return recover(folder, name, hidden_name(self._owner, position))
        except Retryable as error:
            if error.code != UPLOAD_MISSING:
                raise
            return False  # the folder is gone with everything in it

    def sync_folders(self, paths: Iterable[str], kept: KeptFolder | None = None) -> dict[str, Retryable]:
        """Fsync the folders of these paths, each once: without that, an unlinked file may return after a power cut.

        Returns the error of each folder that could not be synced. A folder that is gone, or has become a link, needs no
        fsync: its files are no longer below UPLOADS_PATH, or have another name, under which the reconciler finds them.
        """
        failed: dict[str, Retryable] = {}
        for folder_path in sorted({folder_of(path) for path in paths}):
            try:
                with self._parent(f"{folder_path}/_" if folder_path else "_", kept) as (folder, _, _), files.translated(_READING):
                    os.fsync(folder)
            except Permanent:
                continue
            except Retryable as error:
                if error.code != UPLOAD_MISSING:
                    failed[folder_path] = error
        return failed

    @contextmanager
    def _parent(self, path: str, kept: KeptFolder | None = None) -> Iterator[tuple[int, str, FolderId]]:
        """Yield the folder's descriptor, the name in it, and the identity of UPLOADS_PATH. A newly opened folder is kept."""
        *folders, name = path.split("/")
        if kept is not None and kept.path == folder_of(path):
            yield kept.descriptor, name, kept.root
            return
        with files.opened_volume(self.root, setting="UPLOADS_PATH", code="uploads-missing") as root:
            with files.translated(_READING):
                root_id = FolderId.of(root)
                other_and_empty = self._found_in not in {None, root_id} and _is_empty(root)
            try:
                with _opened_below(root, folders) as folder:
                    if kept is not None:
                        with files.translated(_READING):
                            kept.keep(folder_of(path), folder, root_id)
                    yield folder, name, root_id
            except Retryable as error:
                if error.code == UPLOAD_MISSING and other_and_empty:
                    text = "another folder than before is at UPLOADS_PATH, and it is empty"
                    raise Retryable("uploads-missing", text, errno=error.errno, shared=True) from error
                raise


@contextmanager
def _opened_below(root: int, folders: list[str]) -> Iterator[int]:
    current = root
    try:
        for part in folders:  # at most one more is open at a time: a path may have a thousand parts
            with files.translated(_READING):
                _refuse_link(os.stat(part, dir_fd=current, follow_symlinks=False).st_mode)
                below = os.open(part, files.FOLDER, dir_fd=current)
            if current != root:
                files.close_after_reading(current)
            current = below
        yield current
    finally:
        if current != root:
            files.close_after_reading(current)


def folder_of(path: str) -> str:
    """Return the folder of an upload, relative to UPLOADS_PATH; empty for UPLOADS_PATH itself."""
    return path.rpartition("/")[0]


def _is_empty(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _walk(folder: int, prefix: str, depth: int) -> Generator[FoundUpload]:
    try:
        entries = os.scandir(folder)
    except OSError:
        yield FoundUpload(prefix.rstrip("/") or ".", None, "folder-unreadable")
        return
    with entries:
        while True:
            try:
                entry = next(entries, None)
            except OSError:
                yield FoundUpload(prefix.rstrip("/") or ".", None, "folder-unreadable")
                return
            if entry is None:
                return
            yield from _found(entry, folder, prefix, depth)


def _found(entry: os.DirEntry[str], folder: int, prefix: str, depth: int) -> Generator[FoundUpload]:
    path = prefix + entry.name
    try:
        status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError:
        yield FoundUpload(path, None, "upload-io")
        return
    identity = FileIdentity.of(status)
    if not stat.S_ISDIR(status.st_mode):
        try:
            _refuse_special(status.st_mode)
        except Permanent as error:
            yield FoundUpload(path, identity, error.code)
        else:
            yield FoundUpload(path, identity)
        return
    if depth == MAX_DEPTH:
        yield FoundUpload(path, identity, "folder-too-deep")
        return
    try:
        below = os.open(entry.name, files.FOLDER, dir_fd=folder)
    except OSError as error:
        gone = error.errno in {errnos.ENOENT, errnos.ENOTDIR, errnos.ELOOP}  # or no longer a folder: the next walk sees what it is
        if not gone and path != "lost+found":  # created by ext4 for fsck, owned by root
            yield FoundUpload(path, identity, "folder-unreadable")
        return
    try:
        yield from _walk(below, path + "/", depth + 1)
    finally:
        os.close(below)


def _refuse_link(mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise Permanent("upload-is-link", "a symbolic link: only files below UPLOADS_PATH itself are archived")


def _refuse_special(mode: int) -> None:
    match stat.S_IFMT(mode):
        case stat.S_IFREG:
            return
        case stat.S_IFLNK:
            _refuse_link(mode)
        case stat.S_IFDIR:
            raise Permanent("upload-is-folder", "a folder, not a file")
        case stat.S_IFIFO:
            raise Permanent("upload-is-fifo", "a FIFO, not a file")
        case stat.S_IFSOCK:
            raise Permanent("upload-is-socket", "a socket, not a file")
        case _:
            raise Permanent("upload-is-device", "a device, not a file")
