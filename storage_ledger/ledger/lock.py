"""`serve.lock`: at most one process writes into the archive."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage_ledger.errors import Locked


@contextmanager
def held(path: Path, command: str) -> Iterator[None]:
    """Hold the lock while the `with` runs; the kernel lets go of it however the process ends.

    Raises `Locked` naming the holder. The file stays: removing it would let two processes lock two files of one name.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked("locked", f"{path} is held by {_holder(descriptor)}: stop that one first") from None
        note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note, 0)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether somebody holds it just now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"`storage-ledger {note['command']}` (process {int(note['pid'])} on {note['host']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
