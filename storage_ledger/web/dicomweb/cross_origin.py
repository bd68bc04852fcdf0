"""Which other sites' pages may read DICOMweb (Fetch standard, CORS protocol): none, unless BROWSE_CORS_ORIGINS names them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from storage_ledger.web.dicomweb.public_url import ROOT


def with_cors(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """Return the app; for these origins it answers preflight requests, and allows reading with a token. Cookies are never allowed."""
    if not origins:
        return app
    allowing = CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD"],
        allow_headers=["Accept", "Authorization"],
        expose_headers=["Digest", "ETag", "Retry-After", "Warning", "X-Why"],
    )

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(f"{ROOT}/")
        await (allowing if ours else app)(scope, receive, send)

    return choose
