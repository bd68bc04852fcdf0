"""`/-/health` is 503 if no statement gets its turn, so that the container is restarted."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import PlainTextResponse

from storage_ledger.web.auth.middleware import AccessMiddleware
from storage_ledger.web.datasette.health import Health


async def status_of(health: Health) -> int:
    """Ask the gate without a login, as a container's health check does."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def who(_: Any) -> None:
        return None

    gate = AccessMiddleware(PlainTextResponse("a page"), who, "", lambda *_: None, lambda _: True, health.answers, None)  # type: ignore[arg-type]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/-/health",
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "query_string": b"",
    }
    await gate(scope, None, send)  # type: ignore[arg-type]
    return int(sent[0]["status"])


def test_it_is_503_while_no_statement_gets_its_turn_and_asks_one_question_however_many_want_to_know():
    async def scene() -> None:
        free, asked = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await free.wait()

        health = Health(ask, within_s=0.01)
        assert [await status_of(health) for _ in range(3)] == [503] * 3
        assert asked == 1
        free.set()
        assert await status_of(health) == 200

    asyncio.run(scene())


def test_an_error_is_an_answer():
    async def fails() -> None:
        raise OSError

    assert asyncio.run(status_of(Health(fails))) == 200
