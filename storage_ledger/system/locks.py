"""`serve.lock`: at most one process writes into the archive. `index.lock`: at most one makes the index anew."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage_ledger.errors import LedgerBusy, Locked
from storage_ledger.system import files

LOOKERS = 10_000
"""So many times in a row somebody may be met who only looks; each takes some microseconds."""


@contextmanager
def held(path: Path, command: str, *, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock while the `with` runs; the kernel lets go of it however the process ends.

    With `waits` it waits for its turn, however long that takes, and tells that function before who holds it; a signal whose
    handler raises ends the waiting. Raises `Locked` naming the holder, `LedgerBusy` where the volume is full or fails. The file
    stays: removing it would let two processes lock two files of one name.
    """
    descriptor = _taken(path, command, waits)
    try:
        yield
    finally:
        let_go(descriptor)


def let_go(descriptor: int) -> None:
    """Unlock, then close. It holds no bytes that an error could lose; and where closing fails, nobody waits for us for ever."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    with suppress(OSError):
        os.close(descriptor)


def _taken(path: Path, command: str, waits: Callable[[str], None] | None) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        files.chown_like_folder(descriptor, path.parent)
        try:
            _take(descriptor, path, command, waits)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        code = "ledger-full" if error.errno in files.NO_SPACE else "ledger-io"
        raise LedgerBusy(code, f"{path.name}: {os.strerror(error.errno or 0)}", errno=error.errno) from error
    return descriptor


def _take(descriptor: int, path: Path, command: str, waits: Callable[[str], None] | None) -> None:
    if not _is_taken_now(descriptor):
        if waits is None:
            raise Locked("locked", f"{path} is held by {_holder(descriptor)}: stop that one first") from None
        waits(_holder(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}).encode()
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # on a full volume nobody is named, and the lock holds all the same
        os.pwrite(descriptor, note, 0)


def _is_taken_now(descriptor: int) -> bool:
    """Whether we have it. Who only looks (`is_held`) shares it for a moment: that is nobody who holds it."""
    for _ in range(LOOKERS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def is_held(path: Path) -> bool:
    """Whether somebody holds it just now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a FIFO in its place, opening would never end
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        let_go(descriptor)
    return False


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"`storage-ledger {note['command']}` (process {int(note['pid'])} on {note['host']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
