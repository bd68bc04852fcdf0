"""Real image workers that hang, crash or end: the next request is answered."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storage_ledger.web.files.pictures import MAX_FILES, Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.pool import MAX_WAITING, MAX_WAITING_OF_ONE, Pool
from tests.support.dicom import make_file
from tests.support.waiting import until

PICTURE = RenderRequest("picture")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    make_file(tmp_path / "x.dcm")
    descriptor = os.open(tmp_path / "x.dcm", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(1)
    yield pool
    pool.close()
    assert pool.pids == []


async def told(pool: Pool, file: int, before: Callable[[int], Any] = lambda _: None, during: Callable[[int], Any] = lambda _: None) -> str:
    """The kind of what is made, or the code of why not. `before` and `during` are done to the worker."""
    await pool.make(file, PICTURE)
    (pid,) = pool.pids
    before(pid)
    asked = asyncio.ensure_future(pool.make(file, PICTURE))
    await asyncio.sleep(0)
    during(pid)
    try:
        return (await asked).kind
    except Unavailable as error:
        return error.code


def test_one_that_hangs_is_ended_and_another_takes_its_place(file: int):
    pool = Pool(1, patience_s=0.5)
    try:
        assert asyncio.run(told(pool, file, before=lambda pid: os.kill(pid, signal.SIGSTOP))) == "picture-too-slow"
        assert pool.pids == []
        assert asyncio.run(told(pool, file)) == "jpeg"
    finally:
        pool.close()


def test_one_that_crashes_costs_its_picture_only(pool: Pool, file: int):
    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    assert asyncio.run(told(pool, file, before=lambda pid: os.kill(pid, signal.SIGSTOP), during=kill)) in {"picture-crashed", "jpeg"}
    assert asyncio.run(told(pool, file)) == "jpeg"


def test_many_at_once_are_answered_each_with_its_own(pool: Pool, file: int):
    async def many() -> list[Rendered]:
        return await asyncio.gather(*(pool.make(file, RenderRequest("picture", size=512, window=(float(n), 100.0))) for n in range(20)))

    made = asyncio.run(many())
    assert len({one.data for one in made}) > 10


def some(pool: Pool, files: Sequence[Callable[[], int]], request: RenderRequest = PICTURE) -> list[str]:
    """Ask for several files, and return the kind or code of each result."""
    made = asyncio.run(pool.make_some(files, request))
    return [each.code if isinstance(each, Unavailable) else each.kind for each in made]


def test_several_files_take_one_turn_and_each_has_its_own_result(pool: Pool, file: int):
    def missing() -> int:
        raise Unavailable("file-missing")

    def no_dicom() -> int:
        return os.open("/dev/null", os.O_RDONLY)

    def sound() -> int:
        return os.dup(file)

    before = len(os.listdir("/dev/fd"))
    files = [missing, sound, no_dicom, missing, sound]
    assert some(pool, files) == ["file-missing", "jpeg", "not-dicom", "file-missing", "jpeg"]
    assert some(pool, [missing]) == ["file-missing"]
    assert len(some(pool, [sound] * 40)) == MAX_FILES
    assert len(os.listdir("/dev/fd")) <= before + 8  # the worker's socket, and the pool's threads: none for each file


def test_results_of_a_turn_take_no_more_memory_than_one_may(pool: Pool, tmp_path: Path):
    made = make_file("/dev/null")
    made.add_new(0x00189810, "UC", "x" * (40 << 20))
    made.save_as(tmp_path / "long.dcm", enforce_file_format=True)
    files = [lambda: os.open(tmp_path / "long.dcm", os.O_RDONLY)] * 2
    assert some(pool, files, RenderRequest("dicom-json")) == ["json"]
    assert some(pool, files[1:], RenderRequest("dicom-json")) == ["json"]


def test_a_second_asker_does_not_wait_for_all_requests_of_the_first(pool: Pool, file: int):
    order: list[str] = []

    async def ask(asker: str) -> None:
        await pool.make(file, PICTURE, asker)
        order.append(asker)

    async def scenario() -> None:
        await pool.make(file, PICTURE)
        os.kill(pool.pids[0], signal.SIGSTOP)
        first = [asyncio.ensure_future(ask("first")) for _ in range(20)]
        await asyncio.sleep(0)
        second = asyncio.ensure_future(ask("second"))
        await asyncio.sleep(0)
        os.kill(pool.pids[0], signal.SIGCONT)
        await asyncio.gather(*first, second)

    asyncio.run(scenario())
    assert order.index("second") <= 2


def test_one_asker_leaves_room_for_others_and_who_hangs_up_makes_room(pool: Pool, file: int):
    async def scenario() -> tuple[int, str, str]:
        await pool.make(file, PICTURE)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        asked = [asyncio.ensure_future(pool.make(file, PICTURE, "first")) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        refused = [each for each in asked if each.done()]
        for each in asked:
            if not each.done():
                each.cancel()
        again = [asyncio.ensure_future(pool.make(file, PICTURE, asker)) for asker in ("first", "second")]
        await asyncio.sleep(0)
        assert pool._queue.waiting() == 2  # the others were taken out of the queue, or have begun
        os.kill(pid, signal.SIGCONT)
        first, second = await asyncio.gather(*again)
        await asyncio.gather(*asked, return_exceptions=True)
        return len(refused), first.kind, second.kind

    refused, first, second = asyncio.run(scenario())
    assert refused in {MAX_WAITING - MAX_WAITING_OF_ONE, MAX_WAITING - MAX_WAITING_OF_ONE - 1}  # one may be in the worker already
    assert (first, second) == ("jpeg", "jpeg")


def test_after_its_end_nothing_is_made_and_nothing_runs(file: int):
    pool = Pool(2)
    pool.warm()
    until(lambda: len(pool.pids) == 2, 20, what="both workers to start")
    pids = pool.pids
    pool.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with pytest.raises(Unavailable) as caught:
        asyncio.run(pool.make(file, PICTURE))
    assert caught.value.code == "pictures-busy"


def test_a_worker_ends_with_its_owner_and_may_write_nothing(pool: Pool, file: int):
    limits = Path("/proc/self/limits")
    if not limits.exists():
        pytest.skip("no /proc here")
    asyncio.run(told(pool, file))
    of_worker = dict(
        line.rsplit(None, 3)[:2] for line in Path(f"/proc/{pool.pids[0]}/limits").read_text().splitlines()[1:] if "unlimited" not in line
    )
    assert of_worker["Max file size"] == "0"
    assert of_worker["Max core file size"] == "0"
    assert int(of_worker["Max address space"]) < 2 << 30
    assert Path(f"/proc/{pool.pids[0]}/oom_score_adj").read_text() == "1000\n"


def test_a_frame_of_a_large_file_costs_the_memory_of_one_frame(pool: Pool, tmp_path: Path):
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    made = make_file(tmp_path / "x.dcm", rows=1, columns=1)
    made.Rows, made.Columns, made.NumberOfFrames = 1024, 1024, 200
    del made.PixelData
    made.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    size = 2 * 1024 * 1024 * 200
    with open(tmp_path / "x.dcm", "ab") as file:
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size))
        file.truncate(file.tell() + size)  # nearly all of it a hole
    with open(tmp_path / "x.dcm", "rb") as large:
        picture = asyncio.run(pool.make(large.fileno(), RenderRequest("picture", frame=199, size=1024)))
        assert Image.open(io.BytesIO(picture.data)).size == (1024, 1024)
        assert asyncio.run(pool.make(large.fileno(), RenderRequest("header"))).kind == "json"
    peak_kb = int(Path(f"/proc/{pool.pids[0]}/status").read_text().partition("VmHWM:")[2].split()[0])
    assert peak_kb < 200_000


def test_an_answer_says_what_it_is(pool: Pool, file: int):
    made = asyncio.run(pool.make(file, RenderRequest("about")))
    assert (made.kind, io.BytesIO(made.data).read(1)) == ("json", b"{")
