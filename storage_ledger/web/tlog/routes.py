"""The addresses of the log (c2sp.org/tlog-tiles v0.1.0), behind the access check, before Datasette. /tlog/…:

checkpoint               the newest checkpoint, as at /checkpoint
tile/<L>/<N>[.p/<W>]     hashes of its tree
tile/entries/<N>         never: entries are for those who may see the ledger
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.web.auth.middleware import TLOG
from storage_ledger.web.tlog.tree import TileAddress, TilesUnavailable, TreeSource, leaf_hashes_of

Ask = Callable[[Callable[[Any], Any]], Awaitable[Any]]
"""Calls a function with a connection to the ledger, in another thread. Raises `TilesUnavailable` if that is not possible now."""

NO_TILE = "No such tile, or the newest checkpoint does not cover it\n"
NO_ENTRIES = "Entries are not published, only their hashes\n"


class TlogRoutes:
    """The routes. `checkpoint` answers with the newest one. `public`: caches between us and the client may keep tiles."""

    def __init__(self, ask: Ask, checkpoint: Callable[[Request], Awaitable[Response]], source: TreeSource, *, public: bool) -> None:
        self._ask = ask
        self._checkpoint = checkpoint
        self._source = source
        self._headers = {"Cache-Control": f"{'public' if public else 'private'}, max-age=31536000, immutable"}
        self._making = asyncio.Lock()

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return an app with these routes. Nothing below /tlog/ goes to `app`, for what is asked there may need no login."""
        router = Router(
            [
                Route(f"{TLOG}checkpoint", self._checkpoint),
                Route(f"{TLOG}tile/entries/{{rest:path}}", self.no_entries),
                Route(f"{TLOG}tile/{{address:path}}", self.tile),
            ],
            redirect_slashes=False,
        )

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            ours = scope["type"] == "http" and scope["path"].startswith(TLOG)
            await (router if ours else app)(scope, receive, send)

        return answer

    async def tile(self, request: Request) -> Response:
        """Return the hashes of a tile."""
        address = TileAddress.parse(request.path_params["address"])
        newest = None if address is None else await self._checkpoint(request)
        if address is None or newest is None or newest.status_code == 404:
            return PlainTextResponse(NO_TILE, 404)
        if newest.status_code != 200:
            return newest
        try:
            found = await self._found(address, Checkpoint.parse(SignedNote.parse(bytes(newest.body)).text))
        except ValueError:
            return PlainTextResponse("checkpoint-damaged: the newest checkpoint cannot be read\n", 503)
        except TilesUnavailable as error:
            return PlainTextResponse(f"{error}\n", 503, {"Retry-After": "1" if error.again else "60"})
        return PlainTextResponse(NO_TILE, 404) if found is None else Response(found, 200, self._headers, "application/octet-stream")

    async def no_entries(self, _: Request) -> Response:
        """Refuse entry bundles."""
        return PlainTextResponse(NO_ENTRIES, 404)

    async def _found(self, address: TileAddress, checkpoint: Checkpoint) -> bytes | None:
        tree = self._source.known(checkpoint)
        if tree is None:
            async with self._making:  # one at a time, and those who have waited find what the first has made
                tree = self._source.known(checkpoint) or await self._ask(lambda connection: self._source.make(checkpoint, connection))
        found: bytes | None = await self._ask(lambda connection: tree.tile(address, leaf_hashes_of(connection)))
        return found
