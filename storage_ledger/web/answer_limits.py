"""How many answers are made and sent at a time: each takes memory, or a file, as long as its reader is slow."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage_ledger.web.auth.middleware import ACTOR

PIECE = 64 << 10
WAIT_S = 5.0
"""How long a request waits for its turn."""

LIMITS = (
    (32, re.compile("/(?:file|zip|zip-study)/")),  # an open file and two pieces each
    (4, re.compile("/(?:proof|proof-study)/|/(?:studies|dicom)/[^/]+/report")),  # up to 60 MB each
    (32, re.compile("/(?:image|header|metadata)/")),  # up to 16 MB each
    (128, re.compile("/ohif/")),  # an open file and two pieces each; a viewer loads 50 at once
    (32, re.compile("/dicom-web/")),  # an open file, or a part of `retrieve.ROOM_BYTES`
    (8, re.compile("/(?:index|ledger)(?:[/.]|$)")),  # up to 16 MB of rows, and what is made of them
)
"""How many requests at a time, by the beginning of their path."""


def with_limits(app: ASGIApp) -> ASGIApp:
    """Return the app with all these limits."""
    for most, path in LIMITS:
        app = LimitedAnswers(app, most, path)
    return app


class LimitedAnswers:
    """At most `most` requests for a `path` at a time, half of them of one user. Others wait, then get 503.

    A turn lasts until the reader has the answer, all but a piece: large bodies are sent in pieces.
    """

    def __init__(self, app: ASGIApp, most: int, path: re.Pattern[str], wait_s: float = WAIT_S) -> None:
        self._app = app
        self._path = path
        self._wait_s = wait_s
        self._all = asyncio.Semaphore(most)
        self._of: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max(1, most // 2)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not self._path.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            async with self._turn(scope.get(ACTOR, "")):
                await self._app(scope, receive, in_pieces(send))
        except NoTurnError:
            await PlainTextResponse("Too many downloads and tables at a time: try again later\n", 503, {"Retry-After": "10"})(
                scope, receive, send
            )

    @asynccontextmanager
    async def _turn(self, actor: str) -> AsyncIterator[None]:
        """Hold one of the user's turns and one of all. Raises `NoTurnError`."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._wait_s):
                    await held.enter_async_context(self._of[actor])
                    await held.enter_async_context(self._all)
            except TimeoutError:
                raise NoTurnError from None
            yield


class NoTurnError(Exception):
    """Too many others are before this request."""


def in_pieces(send: Send) -> Send:
    """Send large bodies in pieces: the server takes the next one when the reader has nearly all of the one before."""

    async def sending(message: Message) -> None:
        body = message.get("body", b"")
        if len(body) <= PIECE:
            await send(message)
            return
        for start in range(0, len(body), PIECE):
            more = start + PIECE < len(body) or message.get("more_body", False)
            await send({"type": "http.response.body", "body": body[start : start + PIECE], "more_body": more})

    return sending
