"""The health endpoint of the service: does it live, is it ready, what are its numbers."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from storage_ledger import __version__
from storage_ledger.domain.reason import Reason

_NEVER_CACHED = {"Cache-Control": "no-store"}


def make_app(reasons: Callable[[], list[Reason]], render_metrics: Callable[[], bytes]) -> Starlette:
    """Make the app of `/healthz`, `/readyz` and `/metrics` (GET and HEAD only, 405 otherwise).

    `reasons` says why the service is not ready, and nothing when it is; it and
    `render_metrics` may block: they are called in threads of their own, while `/healthz` needs none and answers even
    when those are stuck.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__}, headers=_NEVER_CACHED)

    def readyz(_: Request) -> Response:
        if found := reasons():
            body = {"status": "not-ready", "reasons": [{"code": each.code, "detail": each.detail} for each in found]}
            return JSONResponse(body, 503, headers=_NEVER_CACHED)
        return JSONResponse({"status": "ready"}, headers=_NEVER_CACHED)

    def metrics(_: Request) -> Response:
        # generate_latest writes 0.0.4; CONTENT_TYPE_LATEST says 1.0.0, which is another escaping of names.
        return Response(render_metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, **_NEVER_CACHED})

    app = Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
    app.router.redirect_slashes = False
    return app
