"""Verifies the archive's files without changing anything: their bytes, and which other files exist."""

from __future__ import annotations

import errno as errnos
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.archive.contract import Fixity
from storage_ledger.system import files
from storage_ledger.system.files import FolderId

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FixityReport:
    """The result for one file. `exposed`: anybody on the machine may write to it; `bytes`: its size."""

    fixity: Fixity
    detail: str = ""
    exposed: bool = False
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A name in a folder; `is_folder`: whether it is a folder itself, not a link to one."""

    name: str
    is_folder: bool


class FixityReader:
    """Reads below `root`, and remembers which folder that was: an unmounted volume must not look like an archive without files.

    `on_bytes` gets the number of bytes just read, at most a megabyte; it may raise to end the reading. `OSError`s other than
    "no such file" are raised: they say nothing about the file.
    """

    def __init__(self, root: Path, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self.root = root
        self._on_bytes = on_bytes
        with self._opened_root() as folder:
            self._identity = FolderId.of(folder)

    def read(self, study_id: str, name: str, sha256: str, size: int) -> FixityReport:
        """Read the whole file, from the disk if the kernel allows it, and compare."""
        try:
            with self._folder(study_id) as folder:
                return self._read(folder, name, sha256, size)
        except FileNotFoundError:
            self.require_root()
            return FixityReport(Fixity.MISSING, "there is no such file")
        except OSError as error:
            if error.errno in {errnos.ENOTDIR, errnos.ELOOP}:
                return FixityReport(Fixity.REPLACED, "its folder is a link or a file")
            raise

    def names(self, *parts: str) -> Iterator[FolderEntry]:
        """Yield the names in a folder, in no order. Raises `FileNotFoundError`, `NotADirectoryError` and the like."""
        with self._folder(*parts) as folder, os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield FolderEntry(entry.name, is_folder)

    def require_root(self) -> None:
        """Check that ARCHIVE_PATH is still the same folder. Raises `Retryable` (`archive-missing`) otherwise."""
        with self._opened_root(same_as=self._identity):
            pass

    def _opened_root(self, same_as: FolderId | None = None) -> AbstractContextManager[int]:
        return files.opened_volume(self.root, setting="ARCHIVE_PATH", code="archive-missing", same_as=same_as)

    @contextmanager
    def _folder(self, *parts: str) -> Iterator[int]:
        with files.opened(self.root, files.VOLUME) as root, files.opened_below(root, *parts) as folder:
            yield folder

    def _read(self, folder: int, name: str, sha256: str, size: int) -> FixityReport:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return FixityReport(Fixity.REPLACED, f"it is {_kind(status.st_mode)}, not a file")
        exposed = bool(status.st_mode & stat.S_IWOTH)
        if status.st_size != size:
            return FixityReport(Fixity.CHANGED, f"it has {status.st_size} bytes in place of {size}", exposed, status.st_size)
        with files.opened(name, files.READ, folder) as descriptor:
            found = self._digest(descriptor, size)
        if found != sha256:
            return FixityReport(Fixity.CHANGED, "it has other bytes", exposed, size)
        return FixityReport(Fixity.INTACT, "", exposed, size)

    def _digest(self, descriptor: int, size: int) -> str:
        _drop_from_memory(descriptor)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_CHUNK, size + 1)))
        offset = 0
        while count := os.preadv(descriptor, [buffer], offset):
            digest.update(buffer[:count])
            offset += count
            self._on_bytes(count)
        _drop_from_memory(descriptor)
        return digest.hexdigest()


def _drop_from_memory(descriptor: int) -> None:
    """Drop a file from the page cache: memory may be right where the disk is not, and other data needs it more."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _kind(mode: int) -> str:
    match stat.S_IFMT(mode):
        case stat.S_IFLNK:
            return "a symbolic link"
        case stat.S_IFDIR:
            return "a folder"
        case stat.S_IFIFO:
            return "a FIFO"
        case stat.S_IFSOCK:
            return "a socket"
        case _:
            return "a device"
