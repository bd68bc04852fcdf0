"""The newest checkpoint at /checkpoint, for anyone: it needs no login, and shows no data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from storage_ledger.service.checkpoint_answer import CHECKPOINT, CheckpointAnswer


class OpenCheckpoint:
    """The route. However many ask, one thread reads."""

    def __init__(self, read: Callable[[], bytes | None]) -> None:
        self._answer = CheckpointAnswer(read)
        self._reading: asyncio.Future[Response] | None = None

    def before(self, app: ASGIApp) -> Router:
        """Return a router with this route; all other addresses go to `app`."""
        return Router([Route(CHECKPOINT, self.checkpoint)], redirect_slashes=False, default=app)

    async def checkpoint(self, _: Request) -> Response:
        """Return the newest checkpoint."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._answer))
        return await asyncio.shield(self._reading)  # a client that goes away must not cancel it for the others
