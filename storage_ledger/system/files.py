"""Files and folders by descriptor: opening, durable writing, ownership, and the meaning of an errno.

Names are always looked up in an open folder, so that it cannot be replaced between two calls. "Durable" means: survives a power cut.
A file's bytes are durable after an fsync of the file, its name after an fsync of the folder.
Functions raise `OSError` unless they say otherwise.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from storage_ledger.errors import Permanent, Retryable
from storage_ledger.system.file_system_kind import kind_of

_libc = ctypes.CDLL(None, use_errno=True)

VOLUME = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags to open the folder of a setting, which may be a symbolic link."""
FOLDER = VOLUME | os.O_NOFOLLOW
"""Flags to open any other folder."""
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file for reading; a FIFO does not block."""
READ_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to change an existing file."""
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to create a file that must not exist."""

NO_SPACE = frozenset({errnos.ENOSPC, errnos.EDQUOT})
NO_HARD_LINKS = frozenset({errnos.EPERM, errnos.EOPNOTSUPP, errnos.ENOTSUP, errnos.ENOSYS})
SYNCED_AS_A_WHOLE = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
"""Kinds of file systems whose syncfs is known to make everything durable."""
NO_FSYNC = frozenset({errnos.EINVAL, errnos.EOPNOTSUPP, errnos.ENOTSUP, errnos.ENOSYS})


class FolderId(NamedTuple):
    """Identifies a folder, to detect another one mounted or moved to the same path."""

    device: int
    inode: int

    @classmethod
    def of(cls, folder: int) -> FolderId:
        """Return the id of an open folder."""
        status = os.fstat(folder)
        return cls(status.st_dev, status.st_ino)


@contextmanager
def opened(name: str | Path, flags: int, folder: int | None = None, *, mode: int = 0o600) -> Iterator[int]:
    """Open a name (in the open `folder`), and close it at the end. `mode` is for a file that `flags` create."""
    descriptor = os.open(name, flags, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_volume(path: Path, *, setting: str, code: str, same_as: FolderId | None = None) -> Iterator[int]:
    """Open the folder that `setting` names.

    Raises `Retryable` with this `code` (shared) if it cannot be opened, or is not `same_as`: an unmounted volume leaves an empty folder
    at its path.
    """
    try:
        descriptor = os.open(path, VOLUME)
    except OSError as error:
        raise _cannot_be_opened(setting, code, error) from error
    try:
        if same_as is not None and _folder_id(descriptor, setting, code) != same_as:
            raise Retryable(code, f"another volume, or none, is mounted at {setting}", shared=True)
        yield descriptor
    finally:
        close_after_reading(descriptor)


def _folder_id(descriptor: int, setting: str, code: str) -> FolderId:
    try:
        return FolderId.of(descriptor)
    except OSError as error:
        raise _cannot_be_opened(setting, code, error) from error


def _cannot_be_opened(setting: str, code: str, error: OSError) -> Retryable:
    return Retryable(code, f"{setting} cannot be opened: {os.strerror(error.errno or 0)}", errno=error.errno, shared=True)


@contextmanager
def opened_below(folder: int, *parts: str) -> Iterator[int]:
    """Open the folder at `parts` below an open one, following no links. At most one more folder is open at a time."""
    current = folder
    try:
        for part in parts:
            below = os.open(part, FOLDER, dir_fd=current)
            if current != folder:
                close_after_reading(current)
            current = below
        yield current
    finally:
        if current != folder:
            close_after_reading(current)


def close_after_reading(descriptor: int) -> None:
    """Close a descriptor that was only read from, or whose file is already fsynced. Ignores errors, because nothing can be lost."""
    with suppress(OSError):
        os.close(descriptor)


def exists(name: str, folder: int) -> bool:
    """Return whether anything has this name, even a dangling link."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def read_file(name: str, folder: int, limit: int = -1) -> bytes:
    """Return the bytes of a file, at most the first `limit`."""
    with opened(name, READ, folder) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:  # raises for a folder
        return file.read(limit)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes; one write(2) may take fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_file(name: str, data: bytes, folder: int, mode: int, *, fsync: Callable[[int], None] = os.fsync) -> os.stat_result:
    """Create a file with these bytes, and return its state. The bytes are durable on return; for the name, fsync the folder."""
    with opened(name, CREATE, folder) as descriptor:
        write_all(descriptor, data)
        set_mode_and_owner(descriptor, folder, mode)
        fsync(descriptor)
        return os.fstat(descriptor)


def replace_file(name: str, data: bytes, folder: int, mode: int, *, temporary: str) -> os.stat_result:
    """Write or replace a file atomically. Bytes and name are durable on return.

    Only one caller at a time may use the name `temporary`; a file that a killed caller left there is removed. Returns the file's state
    before the rename.
    """
    unlink_if_exists(temporary, folder)
    state = write_file(temporary, data, folder, mode)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    return state


def make_folder(name: str, parent: int, mode: int) -> bool:
    """Create a folder; return False if the name exists. For a durable name, fsync the parent."""
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return False
    os.chmod(name, mode, dir_fd=parent)  # whatever the umask
    chown_like_folder(name, parent)
    return True


def unlink_if_exists(name: str, folder: int) -> None:
    """Remove a name if it exists. For durability, fsync the folder."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def fsync_path(path: Path) -> None:
    """Fsync a file or folder. Never use it on a database that SQLite has open in this process: closing drops SQLite's locks."""
    with opened(path, os.O_RDONLY | os.O_CLOEXEC) as descriptor:
        os.fsync(descriptor)


def set_mode_and_owner(descriptor: int, folder: int | Path, mode: int) -> None:
    """Give a new file its mode, whatever the umask, and its owner (see `chown_like_folder`)."""
    os.fchmod(descriptor, mode)
    chown_like_folder(descriptor, folder)


def chown_like_folder(made: int | str | Path, folder: int | Path) -> None:
    """If we are root, chown a new file or folder to the owner and group of its `folder`.

    The service has its own user. A command run as root, by hand or from root's crontab, would otherwise leave a mirror segment, folder
    or lock that the service cannot open. SQLite does the same with its files (sqlite.org/src/file/src/os_unix.c). Does nothing if the
    file system has no owners or forbids the change.
    """
    if os.geteuid() != 0:
        return
    with suppress(OSError):
        owner = os.stat(folder)
        if owner.st_uid == 0:
            return
        if isinstance(made, int):
            os.fchown(made, owner.st_uid, owner.st_gid)
        else:
            parent = folder if isinstance(folder, int) else None
            os.chown(made, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)


class Failure(NamedTuple):
    """The error code for an errno on one volume. `text` replaces that of the C library."""

    code: str
    shared: bool = False
    permanent: bool = False
    text: str = ""


FailureTable = Mapping[int | None, Failure]
"""Failures by errno; None is for every other errno."""


@contextmanager
def translated(failures: FailureTable, about: str = "") -> Iterator[None]:
    """Turn each `OSError` of the `with` block into the table's `Retryable` or `Permanent`, with `about` before its text."""
    try:
        yield
    except OSError as error:
        failure = failures.get(error.errno, failures[None])
        text = f"{about}{failure.text or os.strerror(error.errno or 0)}"
        if failure.permanent:
            raise Permanent(failure.code, text, errno=error.errno) from error
        raise Retryable(failure.code, text, errno=error.errno, shared=failure.shared) from error


def can_sync_file_system(folder: int) -> bool:
    """Return whether syncfs(2) makes everything durable on the file system of an open folder, and reports errors.

    The kernel reports errors of writing since Linux 5.8, and those of the file system's journal since 5.17. A network file system or FUSE
    may write to its server without making it sync.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if sys.platform != "linux" or version is None or (int(version[1]), int(version[2])) < (5, 17):
        return False
    try:
        path = os.readlink(f"/proc/self/fd/{folder}")
    except OSError:  # no /proc
        return False
    return _kind_of(os.fstat(folder).st_dev, os.fstatvfs(folder).f_fsid, path) in SYNCED_AS_A_WHOLE


@lru_cache(maxsize=16)
def _kind_of(_device: int, _id: int, path: str) -> str | None:
    """Look up the kind of a file system once; device and id change when another one is mounted."""
    return kind_of(Path(path))


def sync_file_system(descriptor: int) -> None:
    """Make everything durable that was written to the file system of an open folder before (syncfs(2)). Raises `OSError`.

    An error is reported once to each open descriptor: one opened later may miss it. syncfs succeeds on a file system that an error has
    made read-only; fsync does not, and costs nothing when there is nothing left to write.
    """
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.fsync(descriptor)
