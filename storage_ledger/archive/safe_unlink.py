"""What it takes to unlink one certain file and no other: a lease against writers, and a hidden name on the way.

Every call works on a name in an open folder. Nothing here ever replaces a file.
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
    """`GIVEN`: nobody has the file open for writing, or can until it is released. `WRITER`: somebody has. `UNKNOWN`: see `take_lease`."""

    GIVEN = auto()
    WRITER = auto()
    UNKNOWN = auto()


def take_lease(descriptor: int) -> Lease:
    """Ask for a read lease (fcntl(2), F_SETLEASE; Linux) on a file that is open for reading.

    `UNKNOWN` where the kernel gives none: on a file of another user (without CAP_LEASE), on most network file systems, not on Linux.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return Lease.UNKNOWN
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # who waits for us to let go announces itself; SIGIO would end us
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Lease.WRITER if error.errno == errnos.EAGAIN else Lease.UNKNOWN
    return Lease.GIVEN


def release_lease(descriptor: int) -> None:
    """End the lease, if there is one. Closing the descriptor does the same."""
    with suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@contextmanager
def leased(name: str, folder: int) -> Iterator[tuple[Lease, os.stat_result | None]]:
    """Nobody can begin to write to the file within the `with`, if the lease is given: bytes that go into an unlinked file are lost.

    Yields the lease and the state of the very file that it is on; None for a file that we may remove, but not read.
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
    """The name of an upload between the last comparison and its unlink.

    `position`: of its `archived` entry. `owner`: eight hex digits that tell this ledger from another, which has the same positions.
    """
    return f".remove-{owner}-{position}.tmp"


def hidden_position(owner: str, name: str) -> int | None:
    """The position in a hidden name; None for any other name, or one of another owner."""
    found = _HIDDEN.fullmatch(name)
    return int(found[2]) if found and found[1] == owner else None


def recover(folder: int, name: str, hidden: str) -> bool:
    """Give the file that is called `hidden` its own `name` back, durably; False if there is none.

    If another file has the name by now, it gets a visible one beside it: `<name>~remove-<owner>-<position>.tmp`. A sender's own
    file may be called `hidden`: then nothing is hidden. Raises `OSError`, and may then be called again.
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
            if os.path.samestat(os.stat(new, dir_fd=folder, follow_symlinks=False), there):  # a crash came between link and unlink
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
            os.rename(hidden, new, src_dir_fd=folder, dst_dir_fd=folder)  # nobody else makes such names
        os.fsync(folder)
        return True
    raise Retryable("upload-io", "an upload that was hidden for its removal cannot be given a name back")


def rename_to_new(folder: int, old: str, new: str) -> None:
    """Rename within a folder, never over what exists: `FileExistsError` then. Raises `OSError`.

    By renameat2 where the file system knows it; else by a hard link, fsynced before the old name goes. That is refused on a file
    of another user that we may not write (fs.protected_hardlinks), and on a file system without hard links.
    """
    try:
        _rename_noreplace(folder, old, new)
    except OSError as error:
        if error.errno not in {errnos.EINVAL, errnos.ENOSYS, errnos.EOPNOTSUPP}:
            raise
        link_to_new(folder, old, new)


def link_to_new(folder: int, old: str, new: str) -> None:
    """As `rename_to_new`, by a hard link that is fsynced before the old name goes."""
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
