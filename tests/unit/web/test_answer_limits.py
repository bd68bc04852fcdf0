"""How many answers are made and sent at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from storage_ledger.web.answer_limits import LIMITS, PIECE, LimitedAnswers
from storage_ledger.web.auth.middleware import ACTOR

PATH = "/file/s1/s1.dcm"
Send = Callable[[Any], Awaitable[None]]


class Slow:
    """An app whose answers end when `go` is set; each has a large body."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun: list[str] = []

    async def __call__(self, scope: Any, _: Any, send: Send) -> None:
        self.begun.append(scope[ACTOR])
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (3 * PIECE + 1)})


async def ask(app: LimitedAnswers, actor: str, path: str = PATH) -> list[Any]:
    """Return the messages of the answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, ACTOR: actor, "headers": [], "method": "GET"}, None, send)  # type: ignore[arg-type]
    return sent


def test_one_user_takes_half_of_the_turns_and_who_gets_none_is_told_to_try_again():
    async def run() -> None:
        slow = Slow()
        app = LimitedAnswers(slow, 4, re.compile("/file/"), wait_s=0.01)
        tasks = [asyncio.ensure_future(ask(app, "jane")) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await ask(app, "jane")
        assert (refused[0]["status"], dict(refused[0]["headers"])[b"retry-after"]) == (503, b"10")
        tasks += [asyncio.ensure_future(ask(app, "joe")) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await ask(app, "jim"))[0]["status"] == 503
        assert slow.begun == ["jane", "jane", "joe", "joe"]
        slow.go.set()
        assert [sent[0]["status"] for sent in await asyncio.gather(*tasks)] == [200] * 4
        assert (await ask(app, "jane"))[0]["status"] == 200  # turns are given back
        assert (await ask(app, "jane", "/dicom"))[0]["status"] == 200

    asyncio.run(run())


def test_a_request_waits_for_its_turn():
    async def run() -> None:
        slow = Slow()
        app = LimitedAnswers(slow, 2, re.compile("/file/"), wait_s=600)
        tasks = [asyncio.ensure_future(ask(app, "jane")) for _ in range(3)]
        await asyncio.sleep(0)
        slow.go.set()
        assert [sent[0]["status"] for sent in await asyncio.gather(*tasks)] == [200] * 3

    asyncio.run(run())


def test_a_turn_lasts_until_the_reader_has_the_answer_all_but_a_piece():
    async def run() -> None:
        slow = Slow()
        slow.go.set()
        sent = await ask(LimitedAnswers(slow, 2, re.compile("/file/")), "jane")
        assert [len(message["body"]) for message in sent[1:]] == [PIECE, PIECE, PIECE, 1]
        assert [message["more_body"] for message in sent[1:]] == [True, True, True, False]

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    ["/file/s1/a", "/zip/1.2", "/zip-study/s1", "/proof/1.2", "/proof-study/s1", "/studies/s1/report", "/dicom/1.2/report",
     "/image/s1/a", "/header/s1/a", "/metadata/s1",
     "/index", "/index.json", "/index/files.csv", "/ledger/x/1.blob"],
)  # fmt: skip
def test_what_may_be_large_is_limited(path: str):
    assert [each for _, each in LIMITS if each.match(path)]
