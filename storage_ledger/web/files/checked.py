"""Opens archived files whose bytes are what the ledger recorded: each is read whole once, and again after it has changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from storage_ledger.web.files.lookup import FileLookup, IndexedFile
from storage_ledger.web.files.pictures import Unavailable

REMEMBERED = 100_000
_PIECE = 1 << 20

_Version = tuple[int, int, int, int, int]
"""Device, inode, size, and times of change in nanoseconds: SHA-256 holds until one of them changes."""


class CheckedFiles:
    """Opens files, and remembers which versions of them have been checked."""

    def __init__(self, lookup: FileLookup) -> None:
        self._lookup = lookup
        self._sound: OrderedDict[tuple[_Version, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, file: IndexedFile) -> int:
        """Return a descriptor, at the beginning. May block as long as reading the file takes.

        Raises `Unavailable`, also if the bytes differ from those of the ledger.
        """
        descriptor = self._lookup.open(file)
        try:
            version = _version(descriptor)
            with self._lock:
                known = (version, file.sha256) in self._sound
            if not known:
                self._check(descriptor, file)
                if _version(descriptor) == version:
                    self._remember((version, file.sha256))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def look(self, file: IndexedFile) -> None:
        """Raise `Unavailable` if the file cannot be opened, or has another size; its bytes are not read."""
        self._lookup.check(file)

    def _check(self, descriptor: int, file: IndexedFile) -> None:
        digest = hashlib.sha256()
        at = 0
        try:
            while piece := os.pread(descriptor, _PIECE, at):
                digest.update(piece)
                at += len(piece)
        except OSError as error:
            raise Unavailable("file-unreadable") from error
        if digest.hexdigest() != file.sha256:
            raise Unavailable("file-changed")

    def _remember(self, sound: tuple[_Version, str]) -> None:
        with self._lock:
            self._sound[sound] = None
            self._sound.move_to_end(sound)
            while len(self._sound) > REMEMBERED:
                self._sound.popitem(last=False)


async def opened(open_file: Callable[[IndexedFile], int], file: IndexedFile) -> int:
    """Open a file in a thread. If the caller is cancelled meanwhile, because its client has hung up, the descriptor is closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(open_file, file))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_closed)
        raise


def _closed(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _version(descriptor: int) -> _Version:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
