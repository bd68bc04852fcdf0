"""The HTTP endpoint of the service: liveness, readiness, metrics, and the newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from storage_ledger import __version__
from storage_ledger.domain.reason import Reason
from storage_ledger.service.checkpoint_answer import CHECKPOINT, CheckpointAnswer

HEALTH = frozenset({"/healthz", "/readyz"})
"""What is answered even when others take up all connections."""

_NEVER_CACHED = {"Cache-Control": "no-store"}


def make_app(
    reasons: Callable[[], list[Reason]], render_metrics: Callable[[], bytes], read_checkpoint: Callable[[], bytes | None] = lambda: None
) -> Starlette:
    """Return the app with `/healthz`, `/readyz`, `/metrics` and `/checkpoint` (GET and HEAD; 405 otherwise).

    `reasons` returns why the service is not ready, or nothing. It and the others may block: each call gets a thread.
    `/healthz` needs no thread and answers even if the others are stuck.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__}, headers=_NEVER_CACHED)

    def readyz(_: Request) -> Response:
        if found := reasons():
            body = {"status": "not-ready", "reasons": [{"code": each.code, "detail": each.detail} for each in found]}
            return JSONResponse(body, 503, headers=_NEVER_CACHED)
        return JSONResponse({"status": "ready"}, headers=_NEVER_CACHED)

    def metrics(_: Request) -> Response:
        # generate_latest writes format 0.0.4; CONTENT_TYPE_LATEST is for 1.0.0, which escapes names differently.
        return Response(render_metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, **_NEVER_CACHED})

    answer = CheckpointAnswer(read_checkpoint)

    def checkpoint(_: Request) -> Response:
        return answer()

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics), Route(CHECKPOINT, checkpoint)]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app
