"""What DICOMweb answers hold while their readers are slow or gone: memory within a limit, and no descriptor."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from storage_ledger.web.auth.access_log import AccessLog
from storage_ledger.web.dicomweb.answers import Refused
from storage_ledger.web.dicomweb.instances import Instance, Instances, Named
from storage_ledger.web.dicomweb.metadata import metadata
from storage_ledger.web.dicomweb.retrieve import Sources, instances
from storage_ledger.web.dicomweb.room import Room
from storage_ledger.web.files.checked import opened
from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import Rendered, Unavailable

STUDY = "1.2.3"


@dataclass
class Made:
    """Data sets of 100 kB each, of which the first one `fails`, if there is a code."""

    fails: str | None = None
    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def cached(self, *_: object) -> None:
        return None

    async def get(self, file: IndexedFile, *_: object) -> Rendered:
        return cast("Rendered", self.made(file))

    async def make_some(self, files: Sequence[IndexedFile], *_: object) -> list[Rendered | Unavailable]:
        self.batches.append(len(files))
        return [self.made(file) for file in files[:4]]

    def made(self, file: IndexedFile) -> Rendered | Unavailable:
        self.asked.append(file.name)
        if self.fails is not None and file.name == "1":
            return Unavailable(self.fails)
        return Rendered("json", b"x" * 100_000)


def instance(number: int, size: int = 1) -> Instance:
    file = IndexedFile("s", str(number), "", size, "sound", None, None, None, None, None)
    return Instance(STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}", number, "", 1, file)


FOUND = [instance(number) for number in range(1, 11)]


def request(*, gone: bool = False) -> Request:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/"}
    AccessLog(cast("Any", None)).begin(scope, "jane")

    async def receive() -> dict[str, Any]:
        return await asyncio.Future() if gone is False else {"type": "http.disconnect"}

    return Request(scope, receive)


def sources(made: Made, room: int) -> Sources:
    return Sources(cast("Any", None), cast("Any", made), Room(room))


async def begin(those: Sources) -> AsyncGenerator[bytes, None]:
    """Ask, and return the body, which a client that hangs up closes."""
    answer = await metadata(request(), FOUND, those, "http://x")
    return cast("AsyncGenerator[bytes, None]", cast("StreamingResponse", answer).body_iterator)


def test_answers_that_nobody_reads_take_no_more_than_the_room_and_give_it_back() -> None:
    async def scene() -> None:
        those = sources(Made(), 1_500_000)
        slow = [await begin(those) for _ in range(3)]
        for each in slow:
            assert (await anext(each)).startswith(b"[")
            assert those.room.left >= 0
        for each in slow:
            await each.aclose()
        for _ in range(9):
            assert those.room.left == 1_500_000
            whole = b"".join([piece async for piece in await begin(those)])
            assert len(whole) == 1_000_000 + 11

    asyncio.run(scene())


def test_when_there_is_no_room_the_answer_is_503() -> None:
    async def scene() -> None:
        with pytest.raises(Refused) as caught:
            await metadata(request(), FOUND, sources(Made(), 50_000), "http://x")
        assert (caught.value.status, caught.value.why) == (503, "pictures-busy")

    asyncio.run(scene())


def test_data_sets_that_have_no_turn_are_not_left_out_of_an_answer() -> None:
    async def scene(code: str) -> int:
        made = Made(code)
        those = sources(made, 1 << 20)
        try:
            return (await metadata(request(), FOUND, those, "http://x")).status_code
        except Refused as error:
            assert those.room.left == 1 << 20
            return error.status

    assert asyncio.run(scene("file-missing")) == 206
    assert asyncio.run(scene("pictures-busy")) == 503


def test_small_files_are_read_together_and_large_ones_alone() -> None:
    made = Made()
    found = [instance(number, size=9 << 20 if number in {20, 21} else 1) for number in range(1, 41)]

    async def scene() -> bytes:
        answer = await metadata(request(), found, sources(made, 1 << 30), "http://x")
        return b"".join([cast("bytes", piece) async for piece in cast("StreamingResponse", answer).body_iterator])

    assert len(asyncio.run(scene())) == 40 * 100_000 + 41
    assert sorted(made.asked, key=int) == [each.file.name for each in found]
    assert sorted(made.batches) == sorted([16, 12, 8, 4, 3, 1, 1, 16, 12, 8, 4, 3])  # four at a time are made


def test_nothing_is_made_for_a_client_that_has_hung_up() -> None:
    made = Made()
    answer = asyncio.run(metadata(request(gone=True), FOUND, sources(made, 1 << 20), "http://x"))
    assert answer.status_code == 200
    assert set(made.asked) <= {"1", "2", "3"}  # the first piece, for nobody


def test_a_descriptor_is_closed_if_the_client_hangs_up_while_the_file_is_checked() -> None:
    begun, go, made = threading.Event(), threading.Event(), []

    def slow(_: IndexedFile) -> int:
        begun.set()
        go.wait(30)
        made.append(os.open("/", os.O_RDONLY))
        return made[0]

    async def scene() -> None:
        opening = asyncio.ensure_future(opened(slow, FOUND[0].file))
        await asyncio.to_thread(begun.wait, 30)
        opening.cancel()
        await asyncio.wait([opening])
        go.set()
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(scene())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


@pytest.mark.parametrize("uid", ["1.2\r\nX: 1\r\n\r\n", '1.2","x":"', "1.2.\u4e2d", "", "1" * 65])
def test_files_whose_uids_are_none_are_left_out(uid: str) -> None:
    good = {
        **asdict(FOUND[0].file), "position": 1, "study_instance_uid": STUDY, "series_instance_uid": f"{STUDY}.1",
        "sop_instance_uid": f"{STUDY}.1.1", "transfer_syntax_uid": "1.2.840.10008.1.2", "frames": 1, "pixel_rows": 1, "superseded": 0,
    }  # fmt: skip
    rows = [dict(good) for _ in range(4)]
    rows[1] |= {"series_instance_uid": uid}
    rows[2] |= {"sop_instance_uid": uid}
    rows[3] |= {"sop_instance_uid": f"{STUDY}.1.2", "transfer_syntax_uid": uid}

    async def query(*_: object) -> list[dict[str, Any]]:
        return rows

    found = asyncio.run(Instances(query).find(Named(STUDY)))
    assert [(each.uid, each.syntax) for each in found] == [(f"{STUDY}.1.1", "1.2.840.10008.1.2"), (f"{STUDY}.1.2", "")]


class Files:
    """Checked files that are all the same one, or are all missing."""

    def __init__(self, path: Path | None) -> None:
        self.opened = 0
        self._path = path

    def open(self, _: IndexedFile) -> int:
        self.opened += 1
        if self._path is None:
            raise Unavailable("file-missing")
        return os.open(self._path, os.O_RDONLY)


async def stored(files: Files, size: int) -> list[bytes]:
    those = Sources(cast("Any", files), cast("Any", None), Room(0))
    asking = request()
    asking.scope["headers"] = [(b"accept", b"application/dicom; transfer-syntax=*")]
    answer = await instances(asking, [instance(1, size)], those, "http://x")
    return [cast("bytes", piece) async for piece in cast("StreamingResponse", answer).body_iterator]


def test_an_instance_is_opened_once_and_read_in_few_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(bytes((2 << 20) + 5))
    files = Files(path)
    assert [len(piece) for piece in asyncio.run(stored(files, (2 << 20) + 5))] == [1 << 20, 1 << 20, 5]
    assert files.opened == 1
    path.write_bytes(b"short")
    with pytest.raises(Unavailable, match="file-changed"):  # after the beginning: the answer has no end
        asyncio.run(stored(Files(path), 10))
    with pytest.raises(Refused) as refused:
        asyncio.run(stored(Files(None), 10))
    assert refused.value.status == 404
