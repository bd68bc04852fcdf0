"""Which failures are remembered for whom: a file that crashes a worker for all requests, an odd request for itself alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.cache import Cache
from storage_ledger.web.files.renderings import Renderings

FILE = IndexedFile("s", "f", "0" * 64, 1, "sound", None, None, None, None, None)
PICTURE = RenderRequest("picture")


@dataclass
class Failing:
    """In place of the workers: `fails` with this code for this request, and makes all others."""

    fails: RenderRequest
    code: str
    asked: list[RenderRequest] = field(default_factory=list)

    async def make(self, _: int, wanted: RenderRequest, __: str) -> Rendered:
        self.asked.append(wanted)
        if wanted == self.fails:
            raise Unavailable(self.code)
        return Rendered("bytes", b"made")

    async def make_some(self, files: Sequence[Callable[[], int]], wanted: RenderRequest, _: str) -> list[Rendered | Unavailable]:
        """Of three files at most: the second one fails."""
        for open_file in files[:3]:
            os.close(open_file())
            self.asked.append(wanted)
        return [Unavailable(self.code) if number == 1 else Rendered("bytes", b"made") for number in range(len(files[:3]))]


def outcomes(first: RenderRequest, code: str, second: RenderRequest, folder: Path) -> tuple[list[str], int]:
    """Return what comes of the first request, which fails, again of it, and of the second one; and how many were tried."""
    pool = Failing(first, code)
    renderings = Renderings(lambda _: os.open("/", os.O_RDONLY), cast("Any", pool), Cache(folder, 0))

    async def ask(wanted: RenderRequest) -> str:
        try:
            return (await renderings.get(FILE, wanted, "jane")).data.decode()
        except Unavailable as error:
            return error.code

    async def scene() -> list[str]:
        return [await ask(each) for each in (first, first, second)]

    return asyncio.run(scene()), len(pool.asked)


@pytest.mark.parametrize(
    ("first", "code", "second"),
    [
        (replace(PICTURE, viewport=(9, 9, 0, 0, 0, 0)), "no-such-region", PICTURE),
        (replace(PICTURE, viewport=(8192, 8192)), "picture-too-large", replace(PICTURE, viewport=(128, 128))),
        (replace(PICTURE, window=(1e99, 1e-99)), "pixels-unreadable", PICTURE),
        (RenderRequest("bulk", path="00100010"), "no-such-element", RenderRequest("bulk", path="7FE00010")),
        (RenderRequest("bulk", path="00081140/1/00081150"), "header-unreadable", RenderRequest("bulk", path="7FE00010")),
        (RenderRequest("frame"), "syntax-unsupported", RenderRequest("frame", stored=True)),
    ],
)
def test_a_request_that_fails_does_not_hide_the_file_from_others(
    first: RenderRequest, code: str, second: RenderRequest, tmp_path: Path
) -> None:
    assert outcomes(first, code, second, tmp_path) == ([code, code, "made"], 2)


@pytest.mark.parametrize(
    ("first", "code", "second"),
    [
        (PICTURE, "pixels-unreadable", replace(PICTURE, window=(1.0, 2.0))),
        (replace(PICTURE, viewport=(9, 9)), "picture-crashed", replace(PICTURE, viewport=(8, 8))),
    ],
)
def test_a_file_that_fails_is_not_tried_with_every_window(first: RenderRequest, code: str, second: RenderRequest, tmp_path: Path) -> None:
    assert outcomes(first, code, second, tmp_path) == ([code, code, code], 1)


def test_a_file_that_failed_among_others_is_not_tried_again_and_the_others_are_cached(tmp_path: Path) -> None:
    wanted = RenderRequest("dicom-json")
    pool = Failing(wanted, "header-unreadable")
    renderings = Renderings(lambda _: os.open("/", os.O_RDONLY), cast("Any", pool), Cache(tmp_path / "cache", 1_000_000))
    files = [replace(FILE, sha256=str(number) * 64) for number in range(5)]

    async def scene() -> list[list[str]]:
        made = [await renderings.make_some(some, wanted, "jane") for some in (files, files[:2], files[1:])]
        return [[each.code if isinstance(each, Unavailable) else each.data.decode() for each in some] for some in made]

    assert asyncio.run(scene()) == [["made", "header-unreadable", "made"], [pool.code], ["header-unreadable"]]
    assert len(pool.asked) == 4
    assert [renderings.cached(file, wanted) is not None for file in files] == [True, False, True, False, False]
