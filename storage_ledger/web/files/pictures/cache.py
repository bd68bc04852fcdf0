"""What was made once, on disk, up to a size; the longest unseen goes first.

Patients' data: files 0640, folders 0750. It may be emptied or deleted at any time. Nothing waits for the disk: what a power cut
leaves half written is shorter than it says, and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from storage_ledger.system.files import READ
from storage_ledger.web.files.pictures import MediaKind, Rendered

VERSION = "1"
"""Changes when the same question gets another answer than before."""

KEEP = 0.9
"""So much of the size is left when room is made."""

SEEN_S = 600
"""A file's time says when it was last asked for, as exactly as this."""

FILE_MODE = 0o640
FOLDER_MODE = 0o750
_KEY = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(rb"(%s) ([0-9]{1,10})\n" % "|".join(get_args(MediaKind)).encode())


def key_of(sha256: str, *parts: object) -> str:
    """The name under which the answer to a question about a file of these bytes is kept."""
    return hashlib.sha256("|".join((VERSION, sha256, *map(str, parts))).encode()).hexdigest()


class Cache:
    """Files below `folder`, which is made; at most `size` bytes, 0 keeps nothing. Thread-safe; errors are not passed on."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._lock = threading.Lock()
        self._used: int | None = None

    def get(self, key: str) -> Rendered | None:
        """What was put there; None when it is not there, or not whole."""
        if self._size == 0:
            return None
        try:
            descriptor = os.open(self._path(key), READ)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            head = _HEAD.fullmatch(file.readline(32)) if stat.S_ISREG(status.st_mode) else None
            data = file.read() if head else b""
            if head is None or len(data) != int(head[2]):
                return None
            if time.time() - status.st_mtime > SEEN_S:
                with contextlib.suppress(OSError):
                    os.utime(descriptor)
            kind = head[1].decode()
            return Rendered(kind, data)  # type: ignore[arg-type] # one of the three, says the pattern

    def put(self, key: str, made: Rendered) -> None:
        """Keep it, and make room. Where that cannot be done (a full disk), it is not kept."""
        if self._size == 0:
            return
        whole = f"{made.kind} {len(made.data)}\n".encode() + made.data
        path = self._path(key)
        with contextlib.suppress(OSError):
            _make_folder(path.parent)
            descriptor, part = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, FILE_MODE)
                    file.write(whole)
                os.replace(part, path)
            except OSError:
                os.unlink(part)
                raise
            self._make_room(len(whole))

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError("no key")
        return self._folder / key[:2] / key[2:]

    def _make_room(self, more: int) -> None:
        with self._lock:
            if self._used is not None and self._used + more <= self._size:
                self._used += more
                return
            # At the first time, and whenever it seems full: what others did is seen, too.
            found = sorted(self._files())
            self._used = sum(size for _, size, _ in found)
            limit = self._size if self._used <= self._size else int(self._size * KEEP)
            for _, size, path in found:
                if self._used <= limit:
                    return
                with contextlib.suppress(OSError):
                    os.unlink(path)
                self._used -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When last seen, size, path."""
        with os.scandir(self._folder) as folders:
            for folder in folders:
                if not (re.fullmatch("[0-9a-f]{2}", folder.name) and folder.is_dir(follow_symlinks=False)):
                    continue
                with os.scandir(folder.path) as files:
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime, status.st_size, file.path


def _make_folder(folder: Path) -> None:
    """With its mode, whatever the umask, and the cache's own folder above it."""
    for each in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            each.mkdir(FOLDER_MODE)
            each.chmod(FOLDER_MODE)
