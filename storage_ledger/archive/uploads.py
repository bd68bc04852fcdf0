"""The uploads folder: open what was described, never anything else, and remove it once it is archived.

An upload is removed in two steps, since unlink(2) cannot be told to do so only if the name still means one certain file: it is
renamed to a hidden name, compared once more under that, and only then unlinked. If it turns out to be another file it gets its
name back. A hidden name that a crash leaves behind is found by the work item that made it, or by the reconciler.
"""

from __future__ import annotations

import errno as errnos
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storage_ledger.archive.safe_unlink import Lease, hidden_name, hidden_position, leased, recover, release_lease, take_lease
from storage_ledger.errors import UPLOAD_MISSING, Permanent, Retryable
from storage_ledger.system import files
from storage_ledger.system.files import Failure, FolderId

MAX_DEPTH = 32
"""Folders in each other that a walk goes into; each is open meanwhile."""

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
    """Tells one state of one file from any other: a write or a replacement changes it."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """From fstat or lstat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_but_for_its_name(self, other: FileIdentity) -> bool:
        """The same, whatever the time of the last change: a rename sets that."""
        return replace(self, changed_ns=0) == replace(other, changed_ns=0)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A regular file below UPLOADS_PATH, open for reading. Whoever reads it calls `beat` before each megabyte.

    `identity`: as it was opened; `links`: how many names (hard links) it had then.
    """

    descriptor: int
    identity: FileIdentity
    beat: Callable[[], None] = lambda: None
    links: int = 1

    @property
    def size(self) -> int:
        """In bytes, as it was opened."""
        return self.identity.size

    @property
    def is_being_written(self) -> bool:
        """Whether somebody has it open for writing, as far as the kernel tells us: see `unlink.take_lease`."""
        writer = take_lease(self.descriptor) is Lease.WRITER
        release_lease(self.descriptor)  # a writer that comes now does not have to wait for us
        return writer

    def check_complete(self) -> None:
        """Raise `Retryable` for what cannot be a whole upload yet, and may become one.

        `upload-empty`: it has no bytes. `upload-hard-linked`: it has another name as well. A writer that publishes by link and
        unlink leaves it like that for a moment; for good it may be anybody's file, within uploads or elsewhere on the volume.
        """
        if self.size == 0:
            raise Retryable("upload-empty", "the file is empty")
        if self.links > 1:
            raise Retryable("upload-hard-linked", f"the file has {self.links} names (hard links); an upload has one")

    def check_unchanged(self) -> None:
        """Raise `Retryable` if somebody wrote to it since it was opened: the bytes that were read may never have been one file."""
        if FileIdentity.of(os.fstat(self.descriptor)) != self.identity:
            raise Retryable("upload-changing", "the file changed while it was read")


@dataclass(frozen=True, slots=True)
class FoundUpload:
    """What a walk found under `path`. `code`: why it is no upload (a link, say) or cannot be read; then `identity` may be None.

    `path` is as `os.fsdecode` gives it: bytes that are not UTF-8 are lone surrogates in it.
    """

    path: str
    identity: FileIdentity | None
    code: str | None = None


class Uploads:
    """UPLOADS_PATH. Links are followed in that path itself and nowhere below it.

    A volume that comes off mostly leaves an empty folder in its place. So if the folder at that path is another one than files
    were found in before, and it is empty, a missing file is reported as `uploads-missing`.
    """

    def __init__(self, root: Path, *, ledger_id: str = "") -> None:
        self.root = root
        self._owner = hashlib.sha256(ledger_id.encode()).hexdigest()[:8]
        self._found_in: FolderId | None = None

    @contextmanager
    def open(self, path: str, beat: Callable[[], None] = lambda: None) -> Iterator[OpenUpload]:
        """The file at `path` (relative, as `domain.paths` resolved it).

        Raises `Permanent` for a link, FIFO, device, socket or directory, without opening it; `Retryable` for what may
        yet come: `upload-missing`, `upload-unreadable`, `uploads-missing` (the whole folder; shared), `upload-io`.
        """
        with self._parent(path) as (folder, name, root), files.translated(_READING):
            _refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            descriptor = os.open(name, files.READ, dir_fd=folder)
            try:
                status = os.fstat(descriptor)
                _refuse_special(status.st_mode)  # it may have been replaced since the look before
                self._found_in = root
                yield OpenUpload(descriptor, FileIdentity.of(status), beat, status.st_nlink)
            finally:
                files.close_after_reading(descriptor)

    def identity_of(self, path: str) -> FileIdentity | None:
        """The file at this path now; None if there is none, or nothing that could be an upload. Raises `Retryable` as `open`."""
        try:
            with self._parent(path) as (folder, name, root), files.translated(_READING):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                self._found_in = root
        except (Permanent, Retryable) as error:
            if error.code == UPLOAD_MISSING or isinstance(error, Permanent):
                return None
            raise
        return FileIdentity.of(status) if stat.S_ISREG(status.st_mode) else None

    def walk(self) -> Generator[FoundUpload]:
        """Everything below UPLOADS_PATH but readable folders, one by one, in no order; opens folders only, and follows no link.

        Memory does not grow with the number of files; a folder is open while it is walked. A file that comes or goes meanwhile
        may be found or not. Raises `Retryable` (`uploads-missing`) when it begins.
        """
        with self._parent("_") as (root, _, _):
            yield from _walk(root, "", 1)

    def remove(self, path: str, identity: FileIdentity, position: int, *, settled: bool) -> None:
        """Unlink the file if it still is `identity`; not durable before `sync_folders`. Nothing happens if it is gone.

        `position`: of the `archived` entry; the hidden name carries it. `settled`: it has not changed for long enough to be taken
        for complete where the kernel cannot tell whether somebody writes to it.
        Raises `Retryable`: `upload-changing` if it is another file by now (which keeps its name) or somebody has it open for
        writing; `upload-settling` if nobody can tell and it is not `settled`; shared if we may not remove it: foreign owner,
        read-only file system.
        """
        hidden = hidden_name(self._owner, position)
        with self._parent(path) as (folder, name, _), files.translated(_REMOVING):
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
        """The `archived` entry's position in the hidden name of an upload that is being removed; None for any other path."""
        return hidden_position(self._owner, path.rpartition("/")[2])

    def recover(self, path: str, position: int) -> bool:
        """Give an upload its name back that a crash left under the hidden name of `position`; False if there was none.

        Durable on return. If another file has the name by now, the hidden one gets a visible name beside it.
        Raises `Retryable` as `remove` does; `Permanent` where a folder on the way is a link.
        """
        try:
            with self._parent(path) as (folder, name, _), files.translated(_REMOVING):
                return recover(folder, name, hidden_name(self._owner, position))
        except Retryable as error:
            if error.code != UPLOAD_MISSING:
                raise
            return False  # the folder is gone, with all that was in it

    def sync_folders(self, paths: Iterable[str]) -> dict[str, Retryable]:
        """Fsync the folders of these paths, each once: without it an unlinked file comes back after a power cut.

        Returns the error of each folder that could not be synced. A folder that is gone, or a link by now, needs no fsync: its
        files are below UPLOADS_PATH no more, or under another name, where the reconciler finds them.
        """
        failed: dict[str, Retryable] = {}
        for folder_path in sorted({folder_of(path) for path in paths}):
            try:
                with self._parent(f"{folder_path}/_" if folder_path else "_") as (folder, _, _), files.translated(_READING):
                    os.fsync(folder)
            except Permanent:
                continue
            except Retryable as error:
                if error.code != UPLOAD_MISSING:
                    failed[folder_path] = error
        return failed

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str, FolderId]]:
        """Descriptor of the folder, the name in it, and which folder UPLOADS_PATH is now."""
        *folders, name = path.split("/")
        with files.opened_volume(self.root, setting="UPLOADS_PATH", code="uploads-missing") as root:
            with files.translated(_READING):
                root_id = FolderId.of(root)
                other_and_empty = self._found_in not in {None, root_id} and _is_empty(root)
            try:
                with _opened_below(root, folders) as folder:
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
    """The folder of an upload, relative to UPLOADS_PATH; empty for that itself."""
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
        gone = error.errno in {errnos.ENOENT, errnos.ENOTDIR, errnos.ELOOP}  # or no folder any more: the next walk sees what it is
        if not gone and path != "lost+found":  # fsck's own, of root: on an ext4 volume it is always there
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
