"""Disk cache of rendered images and headers, limited in size; the least recently used are removed first.

It contains patient data: files 0640, folders 0750. It may be emptied or deleted at any time. Nothing is fsynced: a file that a
power cut left incomplete is shorter than its first line says, and is rendered again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from storage_ledger.system.files import CREATE, READ, write_all
from storage_ledger.web.files.pictures import MediaKind, Rendered

VERSION = "1"
"""Change this when the same request gives a different result than before."""

KEEP = 0.9
"""When the cache is full, it is reduced to this fraction of its size."""

SEEN_S = 600
"""Precision of the last use, which is a file's modification time."""

FILE_MODE = 0o640
FOLDER_MODE = 0o750
_KEY = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(rb"(%s) ([0-9]{1,10})\n" % "|".join(get_args(MediaKind)).encode())


def key_of(sha256: str, *parts: object) -> str:
    """Return the cache key for a request (`parts`) about a file with this checksum."""
    return hashlib.sha256("|".join((VERSION, sha256, *map(str, parts))).encode()).hexdigest()


class Cache:
    """A cache in `folder`, which is created; at most `size` bytes, 0 disables it. Thread-safe. I/O errors are ignored."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._lock = threading.Lock()
        self._used: int | None = None

    def get(self, key: str) -> Rendered | None:
        """Return the cached result; None if it is missing or incomplete."""
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
            return Rendered(kind, data)  # type: ignore[arg-type] # the pattern allows only these

    def put(self, key: str, made: Rendered) -> None:
        """Cache a result and make room for it. Does nothing if that fails, for example on a full disk."""
        if self._size == 0:
            return
        whole = f"{made.kind} {len(made.data)}\n".encode() + made.data
        path = self._path(key)
        part = f"{os.path.dirname(path)}/.{os.urandom(8).hex()}"
        with contextlib.suppress(OSError):
            try:
                descriptor = os.open(part, CREATE)
            except FileNotFoundError:
                self._make_folder(os.path.dirname(path))
                descriptor = os.open(part, CREATE)
            try:
                try:
                    os.fchmod(descriptor, FILE_MODE)
                    write_all(descriptor, whole)
                finally:
                    os.close(descriptor)
                os.replace(part, path)
            except OSError:
                os.unlink(part)
                raise
            self._make_room(len(whole))

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError("no key")
        return f"{self._folder}/{key[:2]}/{key[2:]}"

    def _make_folder(self, path: str) -> None:
        """Create the cache's folder and this one in it with the same mode, whatever the umask."""
        for each in (self._folder, Path(path)):
            with contextlib.suppress(FileExistsError):
                each.mkdir(FOLDER_MODE)
                each.chmod(FOLDER_MODE)

    def _make_room(self, more: int) -> None:
        with self._lock:
            if self._used is not None and self._used + more <= self._size:
                self._used += more
                return
            # Count at first use and whenever the cache seems full: other processes may have changed it.
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
        """Yield the last use, size and path of each cached file."""
        with os.scandir(self._folder) as folders:
            for folder in folders:
                if not (re.fullmatch("[0-9a-f]{2}", folder.name) and folder.is_dir(follow_symlinks=False)):
                    continue
                with os.scandir(folder.path) as files:
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime, status.st_size, file.path
