"""What the processes of `pictures` make of archived files: from the cache, or made now and kept."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial

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
        failure = self._failure(file, wanted)
        descriptor = await opened(self._open, file)  # one that is gone meanwhile is missing, whatever was wrong with it
        try:
            if failure is not None:
                raise failure
            try:
                made = await self._pool.make(descriptor, wanted, asker)
            except Unavailable as error:
                self._remember(file, wanted, error)
                raise
        finally:
            os.close(descriptor)
        if keep:
            await asyncio.to_thread(self._cache.put, cache_key(file, wanted), made)
        return made

    async def make_some(self, files: Sequence[IndexedFile], wanted: RenderRequest, asker: str) -> list[Rendered | Unavailable]:
        """Make the same of the first of several files, of at least one, and put it into the cache. Returns their results.

        Of small files, one by one, most of the time would be that of threads that wait for each other. Large ones should be alone:
        a file that is not known to be sound is read while a worker waits for it.
        """
        together = list(itertools.takewhile(lambda file: self._failure(file, wanted) is None, files))
        if len(together) < 2:
            try:
                return [await self.make(files[0], wanted, asker)]
            except Unavailable as error:
                return [error]
        made = await self._pool.make_some([partial(self._open, file) for file in together], wanted, asker)
        for file, result in zip(together, made, strict=False):
            if isinstance(result, Unavailable):
                self._remember(file, wanted, result)
        await asyncio.to_thread(self._put, [(cache_key(file, wanted), result) for file, result in zip(together, made, strict=False)])
        return made

    def _put(self, results: Sequence[tuple[str, Rendered | Unavailable]]) -> None:
        for key, made in results:
            if isinstance(made, Rendered):
                self._cache.put(key, made)

    def _failure(self, file: IndexedFile, wanted: RenderRequest) -> Unavailable | None:
        now = asyncio.get_running_loop().time()
        for question in (_of_file(file, wanted), cache_key(file, wanted)):
            if (failed := self._failed.get(question)) is not None and now < failed[0]:
                return Unavailable(failed[1])
        return None

    def _remember(self, file: IndexedFile, wanted: RenderRequest, error: Unavailable) -> None:
        """Remember a failure, so that a file that crashes a worker is not tried again at every request."""
        if error.code in _PASSING:
            return
        logs.get().info("browse.no-picture", code=error.code, frames_at=error.where, study_id=file.study_id)
        question = _of_file(file, wanted) if _is_of_file(wanted, error.code) else cache_key(file, wanted)
        self._failed.pop(question, None)
        self._failed[question] = (asyncio.get_running_loop().time() + _FAILED_FOR_S, error.code)
        while len(self._failed) > _FAILED_AT_MOST:
            del self._failed[next(iter(self._failed))]


def cache_key(file: IndexedFile, wanted: RenderRequest) -> str:
    """Return the key under which the result is cached."""
    return key_of(file.sha256, wanted.to_json())


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
