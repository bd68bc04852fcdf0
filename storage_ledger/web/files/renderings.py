"""What the processes of `pictures` make of archived files: from the cache, or made now and kept."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable

from storage_ledger.errors import PICTURE_CRASHED
from storage_ledger.system import logs
from storage_ledger.web.files.checked import opened
from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.cache import Cache, key_of
from storage_ledger.web.files.pictures.pool import Pool

_FAILED_FOR_S = 600.0
_FAILED_AT_MOST = 10_000

NO_FILE = frozenset({"archive-missing", "file-missing", "file-changed", "file-unreadable"})
"""Reasons for which the file cannot be downloaded either."""

_PASSING = NO_FILE | {"pictures-busy"}


class Renderings:
    """Makes what a `RenderRequest` asks for. `open_file` opens a file, in a thread, and raises `Unavailable`."""

    def __init__(self, open_file: Callable[[IndexedFile], int], pool: Pool, cache: Cache) -> None:
        self._open = open_file
        self._pool = pool
        self._cache = cache
        self._failed: dict[object, tuple[float, str]] = {}

    def cached(self, file: IndexedFile, wanted: RenderRequest) -> Rendered | None:
        """Return the result if the cache has it. Blocks: call it in a thread, for many files at once."""
        return self._cache.get(cache_key(file, wanted))

    async def get(self, file: IndexedFile, wanted: RenderRequest, asker: str, *, keep: bool = True) -> Rendered:
        """Return the result. `keep`: look for it in the cache, and put it there. Raises `Unavailable`."""
        if keep and (made := await asyncio.to_thread(self.cached, file, wanted)) is not None:
            return made
        return await self.make(file, wanted, asker, keep=keep)

    async def make(self, file: IndexedFile, wanted: RenderRequest, asker: str, *, keep: bool = True) -> Rendered:
        """Make the result, whatever the cache has. `keep`: put it into the cache. Raises `Unavailable`."""
        key = cache_key(file, wanted)
        now = asyncio.get_running_loop().time()
        for question in (_of_file(file, wanted), key):
            if (failed := self._failed.get(question)) is not None and now < failed[0]:
                os.close(await opened(self._open, file))  # one that is gone meanwhile is missing, whatever was wrong with it
                raise Unavailable(failed[1])
        descriptor = await opened(self._open, file)
        try:
            made = await self._pool.make(descriptor, wanted, asker)
        except Unavailable as error:
            if error.code not in _PASSING:
                self._remember(_of_file(file, wanted) if _is_of_file(wanted, error.code) else key, now + _FAILED_FOR_S, error.code)
                logs.get().info("browse.no-picture", code=error.code, frames_at=error.where, study_id=file.study_id)
            raise
        finally:
            os.close(descriptor)
        if keep:
            await asyncio.to_thread(self._cache.put, key, made)
        return made

    def _remember(self, question: object, until: float, code: str) -> None:
        """Remember a failure, so that a file that crashes a worker is not tried again at every request."""
        self._failed.pop(question, None)
        self._failed[question] = (until, code)
        while len(self._failed) > _FAILED_AT_MOST:
            del self._failed[next(iter(self._failed))]


def cache_key(file: IndexedFile, wanted: RenderRequest) -> str:
    """Return the key under which the result is cached."""
    return key_of(file.sha256, json.dumps(wanted.to_json()))


def _of_file(file: IndexedFile, wanted: RenderRequest) -> tuple[object, ...]:
    """Return what a failure depends on that is the file's: size and window do not matter."""
    match wanted.what:
        case "picture" | "about":
            return file.sha256, "picture", wanted.frame
        case _:
            return file.sha256, wanted.what, wanted.frame, wanted.stored


def _is_of_file(wanted: RenderRequest, code: str) -> bool:
    """Return whether other requests fail likewise, too. One user's odd viewport or path must not hide the image from others."""
    if code == PICTURE_CRASHED:
        return True
    return wanted.what != "bulk" and wanted.viewport is None and wanted.window is None
