"""What DICOMweb needs of a file, from real workers in their sandbox, for every file of pydicom."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_charset_files

from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable, bulk_data, dicom_json, explicit, frames
from storage_ledger.web.files.pictures.pool import Pool
from tests.support.annex_f import faults
from tests.support.dicom import make_file, testdata_files

FILES = [*testdata_files(), *sorted(Path(name) for name in get_charset_files("*.dcm"))]
REQUESTS = (
    RenderRequest("dicom-json"),
    RenderRequest("bulk", path="7FE00010"),
    RenderRequest("frame", stored=True),
    RenderRequest("frame"),
    RenderRequest("explicit"),
    RenderRequest("picture", media="gif", viewport=(64, 64, 0, 0, -32, 32)),
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def directly(path: Path, request: RenderRequest) -> Rendered | str:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            match request.what:
                case "dicom-json":
                    return Rendered("json", dicom_json.document(file))
                case "bulk":
                    return bulk_data.bulk(file, request.path)
                case "frame":
                    return frames.frame(file, request)
                case _:
                    return explicit.recipe(file)
        except Unavailable as error:
            return error.code


async def by_workers(pool: Pool, path: Path) -> list[Rendered | str]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [await told(pool, descriptor, request) for request in REQUESTS]
    finally:
        os.close(descriptor)


async def told(pool: Pool, descriptor: int, request: RenderRequest) -> Rendered | str:
    try:
        return await pool.make(descriptor, request)
    except Unavailable as error:
        return error.code


def test_every_file_is_answered_as_without_the_sandbox(pool: Pool):
    async def all_of_them() -> list[list[Rendered | str]]:
        half = asyncio.Semaphore(8)

        async def one(path: Path) -> list[Rendered | str]:
            async with half:
                return await by_workers(pool, path)

        return await asyncio.gather(*map(one, FILES))

    for path, made in zip(FILES, asyncio.run(all_of_them()), strict=True):
        for request, result in zip(REQUESTS, made, strict=True):
            assert result not in {"picture-crashed", "picture-too-slow", "picture-too-large"}, (path.name, request)
            if request.what != "picture":
                assert directly(path, request) in (result, "header-unreadable"), (path.name, request)
            elif isinstance(result, Rendered):
                assert (result.kind, result.data[:3]) == ("gif", b"GIF"), path.name
        if isinstance(made[0], Rendered):
            assert faults(made[0].data) == [], path.name


def ask(pool: Pool, path: Path, request: RenderRequest) -> Rendered | str:
    async def once() -> Rendered | str:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return await told(pool, descriptor, request)
        finally:
            os.close(descriptor)

    return asyncio.run(once())


def test_three_gigabytes_of_pixels_are_never_in_a_worker_s_memory(pool: Pool, tmp_path: Path):
    path = tmp_path / "large.dcm"
    made = make_file("/dev/null", rows=1, columns=1, NumberOfFrames=1500)
    made.Rows = made.Columns = 1024
    made.PixelData = b""
    made.save_as(path, enforce_file_format=True)
    at, length = path.stat().st_size, 1500 << 21
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<L", length))
        file.truncate(at + length)  # sparse: it takes no space
    for request, place in (
        (RenderRequest("bulk", path="7FE00010"), {"at": at, "length": length}),
        (RenderRequest("frame", frame=1499, stored=True), {"at": at + (1499 << 21), "length": 2 << 20}),
    ):
        result = ask(pool, path, request)
        assert isinstance(result, Rendered)
        assert (result.kind, result.data) == ("bytes", b"")
        assert place.items() <= result.about.items()
    result = ask(pool, path, RenderRequest("explicit"))
    assert isinstance(result, Rendered)
    assert result.about["range"] == [at, length]
    assert isinstance(ask(pool, path, RenderRequest("dicom-json")), Rendered)


def test_an_answer_too_long_for_the_socket_is_a_reason_and_no_crash(pool: Pool, tmp_path: Path):
    path = tmp_path / "long.dcm"
    made = make_file("/dev/null")
    made.add_new(0x00189810, "UC", "x" * (70 << 20))
    del made.PixelData
    made.save_as(path, enforce_file_format=True)
    ask(pool, path, RenderRequest("header"))  # the worker has started
    pids = pool.pids
    assert ask(pool, path, RenderRequest("dicom-json")) == "picture-too-large"
    assert pool.pids == pids


def hostile() -> dict[str, bytes]:
    """Files that make a reader recurse, allocate or loop."""
    uid = b"1.2.840.10008.1.2.1\0"
    meta = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", len(uid)) + uid + struct.pack("<HH2sH", 8, 0x60, b"CS", 2) + b"CT"
    open_sequence = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    deflated = meta.replace(uid[:-1], b"1.2.840.10008.1.2.1.99"[:19])
    fragments = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    return {
        "deep": meta + open_sequence * 100_000,
        "long": meta + struct.pack("<HH2sHL", 0x42, 0x11, b"OB", 0, 0xFFFFFFFE) + b"x",
        "many-items": meta + struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 50_000,
        "many-fragments": meta.replace(uid, b"1.2.840.10008.1.2.5\0") + fragments + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 50_000,
        "no-deflate": deflated + os.urandom(1000),
    }


@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_files_cost_a_worker_nothing(pool: Pool, tmp_path: Path, name: str):
    path = tmp_path / "x.dcm"
    path.write_bytes(hostile()[name])
    for request in REQUESTS[:5]:
        result = ask(pool, path, request)
        assert isinstance(result, Rendered) or result not in {"picture-crashed", "picture-too-slow"}, (name, request, result)


def test_a_file_is_the_same_through_a_worker_and_back(pool: Pool, tmp_path: Path):
    path = tmp_path / "x.dcm"
    made: Any = make_file(path, rows=16, columns=16)
    result = ask(pool, path, RenderRequest("explicit"))
    assert isinstance(result, Rendered)
    head, (at, length) = result.about["head"], result.about["range"]
    again = pydicom.dcmread(io.BytesIO(result.data[:head] + path.read_bytes()[at : at + length] + result.data[head:]))
    assert again == made
