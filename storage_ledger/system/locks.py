"""File locks, such as `serve.lock` for the process that writes into the archive and `index.lock` for the one that rebuilds the index."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage_ledger.errors import LedgerBusy, Locked
from storage_ledger.system import files

CHILDREN_END_WITHIN_S = 10.0
LOOK_EVERY_S = 0.02
MOST_LOOKS = 10_000
"""Retries while other processes probe the lock with `is_held`, which takes a few microseconds each time."""


@contextmanager
def held(path: Path, command: str, *, waits: Callable[[str], None] | None = None) -> Iterator[int]:
    """Hold the lock while the `with` block runs. The kernel releases it however the process ends.

    Yields the lock's descriptor: a child process that inherits it holds the lock, too, for as long as it lives.

    If `waits` is given, call it with the name of the holder, then wait without limit; a signal handler that raises ends the wait. Raises
    `Locked`, which names the holder, or `LedgerBusy` if the volume is full or fails. The file stays: if it were removed, two processes
    could lock two files of one name.
    """
    descriptor = _taken(path, command, waits)
    try:
        yield descriptor
    finally:
        unlock_and_close(descriptor)


def unlock_and_close(descriptor: int) -> None:
    """Unlock, then close, so that no process waits for ever if closing fails. Ignores errors, because no bytes can be lost."""
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
    if not (_is_taken_now(descriptor) or _is_left_to_us(descriptor)):
        if waits is None:
            raise Locked("locked", f"{path} is held by {_holder(descriptor)}: stop that process first") from None
        waits(_holder(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}).encode()
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # on a full volume the file does not name the holder; the lock still works
        os.pwrite(descriptor, note, 0)


def _is_taken_now(descriptor: int) -> bool:
    """Take the lock if it is free. `is_held` probes with a brief shared lock; that is not a holder, so retry."""
    for _ in range(MOST_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _is_left_to_us(descriptor: int) -> bool:
    """Take the lock of a holder that has ended, when the child processes that inherited it have, too; wait some seconds for them."""
    until = time.monotonic() + CHILDREN_END_WITHIN_S
    while _has_ended(_note(descriptor)) and time.monotonic() < until:
        if _is_taken_now(descriptor):
            return True
        time.sleep(LOOK_EVERY_S)
    return False


def _has_ended(note: dict[str, Any]) -> bool:
    try:
        if note["host"] == socket.gethostname():
            os.kill(int(note["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, OSError):
        pass
    return False


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO would never return
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        unlock_and_close(descriptor)
    return False


def _holder(descriptor: int) -> str:
    note = _note(descriptor)
    try:
        which = "a worker process of " if _has_ended(note) else ""
        return f"{which}`storage-ledger {note['command']}` (process {int(note['pid'])} on {note['host']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _note(descriptor: int) -> dict[str, Any]:
    with suppress(ValueError):
        note = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(note, dict):
            return note
    return {}
