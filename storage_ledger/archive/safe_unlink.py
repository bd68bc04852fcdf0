"""Unlinks one particular file and no other: with a lease against writers, and a hidden name in between.

Every call works on a name in an open folder. Nothing here replaces a file.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import fcntl
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

from storage_ledger.errors import Retryable
from storage_ledger.system import files

_HIDDEN = re.compile(r"\.remove-([0-9a-f]{8})-([1-9][0-9]{0,18})\.tmp", re.ASCII)
_NO_LINKS = frozenset({errnos.EPERM, errnos.EACCES, errnos.EOPNOTSUPP, errnos.ENOTSUP, errnos.ENOSYS, errnos.EMLINK})
_RENAME_NOREPLACE = 1  # renameat2(2), Linux
_NAMES_BESIDE = 1000


class Lease(Enum):
    """`GIVEN`: nobody has the file open for writing, nor can until it is released. `WRITER`: somebody has. `UNKNOWN`: see `take_lease`."""

    GIVEN = auto()
    WRITER = auto()
    UNKNOWN = auto()


def take_lease(descriptor: int) -> Lease:
    """Ask for a read lease (fcntl(2), F_SETLEASE; Linux) on a file that is open for reading.

    `UNKNOWN` if the kernel gives none: on another user's file (without CAP_LEASE), on most network file systems, not on Linux.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return Lease.UNKNOWN
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # a process that waits for the lease triggers a signal; SIGIO would end us
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Lease.WRITER if error.errno == errnos.EAGAIN else Lease.UNKNOWN
    return Lease.GIVEN


def release_lease(descriptor: int) -> None:
    """Release the lease, if there is one. Closing the descriptor does the same."""
    with suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@contextmanager
def leased(name: str, folder: int) -> Iterator[tuple[Lease, os.stat_result | None]]:
    """Hold a lease, if possible, so that nobody can start writing to the file: bytes written to an unlinked file are lost.

    Yields the lease and the status of the file that it is on; None for a file that we may remove but not read.
    """
    try:
        descriptor = os.open(name, files.READ, dir_fd=folder)
    except PermissionError:
        yield Lease.UNKNOWN, None
        return
    try:
        given = take_lease(descriptor)
        yield given, os.fstat(descriptor)
    finally:
        files.close_after_reading(descriptor)


def hidden_name(owner: str, position: int) -> str:
    """Return the name of an upload between its last check and its unlink.

    `position`: of its `archived` entry. `owner`: eight hex digits that distinguish this ledger from others with the same positions.
    """
    return f".remove-{owner}-{position}.tmp"


def hidden_position(owner: str, name: str) -> int | None:
    """Return the position in a hidden name, or None for any other name or another owner's."""
    found = _HIDDEN.fullmatch(name)
    return int(found[2]) if found and found[1] == owner else None


def recover(folder: int, name: str, hidden: str) -> bool:
    """Give the file `hidden` its own `name` again, durably; return False if there is none.

    If another file has that name, it gets a visible name beside it: `<name>~remove-<owner>-<position>.tmp`. If a sender's own
    file is called `hidden`, nothing is hidden. Raises `OSError`, and may then be called again.
    """
    if name == hidden:
        return False
    try:
        there = os.stat(hidden, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    beside = f"{name.encode(errors='surrogateescape')[:200].decode(errors='ignore')}~{hidden.strip('.')}"
    for new in (name, beside, *(f"{beside}.{number}" for number in range(1, _NAMES_BESIDE))):
        try:
            if os.path.samestat(os.stat(new, dir_fd=folder, follow_symlinks=False), there):  # a crash between link and unlink
                os.fsync(folder)
                os.unlink(hidden, dir_fd=folder)
                return True
        except FileNotFoundError:
            pass
        try:
            rename_to_new(folder, hidden, new)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in _NO_LINKS or new == name:
                if error.errno in _NO_LINKS:
                    continue
                raise
            os.rename(hidden, new, src_dir_fd=folder, dst_dir_fd=folder)  # nobody else creates such names
        os.fsync(folder)
        return True
    raise Retryable("upload-io", "an upload that was hidden for its removal cannot be given a name back")


def rename_to_new(folder: int, old: str, new: str) -> None:
    """Rename within a folder, never over an existing file: raises `FileExistsError` then, and other `OSError`s.

    Uses renameat2 if the file system supports it, otherwise a hard link that is fsynced before the old name is removed. The link
    is refused for another user's file that we may not write (fs.protected_hardlinks), and without hard links.
    """
    try:
        _rename_noreplace(folder, old, new)
    except OSError as error:
        if error.errno not in {errnos.EINVAL, errnos.ENOSYS, errnos.EOPNOTSUPP}:
            raise
        link_to_new(folder, old, new)


def link_to_new(folder: int, old: str, new: str) -> None:
    """Rename as `rename_to_new` does, with a hard link that is fsynced before the old name is removed."""
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.fsync(folder)
    os.unlink(old, dir_fd=folder)


def _rename_noreplace(folder: int, old: str, new: str) -> None:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errnos.ENOSYS, os.strerror(errnos.ENOSYS)) from None
    if call(folder, os.fsencode(old), folder, os.fsencode(new), ctypes.c_uint(_RENAME_NOREPLACE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)
