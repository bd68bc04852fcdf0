"""The page below a path of its host, such as https://images.example.org/archive: that of BROWSE_PUBLIC_URL.

Everything behind this knows only the page's own addresses. Links in pages begin with the prefix (`root` in the templates).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALLOWED = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,8}")
NOT_FOUND = PlainTextResponse("No such address\n", 404)

_OURS = frozenset({
    "-", "attention", "checkpoint", "dicom", "dicom-web", "file", "header", "image", "index", "ledger", "metadata", "ohif", "state",
    "studies", "zip", "zip-study",
})  # fmt: skip
"""Names of our own addresses: below such a prefix, an address could be read in two ways."""


def prefix_of(url: str | None) -> str:
    """Return the path of BROWSE_PUBLIC_URL, without a slash at its end; empty at the root. Raises `ValueError` with a user's message."""
    path = urlsplit(url or "").path.rstrip("/")
    steps = path.split("/")[1:]
    if _ALLOWED.fullmatch(path) is None or {".", ".."} & set(steps):
        raise ValueError("its path may have letters, digits and . _ ~ - between slashes")
    if steps and steps[0] in _OURS:
        raise ValueError(f"its path must not begin with /{steps[0]}, which is an address of the page itself")
    return path


def with_prefix(prefix: str, app: ASGIApp) -> ASGIApp:
    """Return the app below this prefix. A request without it is answered too: a health check, or a proxy that has removed it."""
    if not prefix:
        return app
    start = f"{prefix}/".encode()

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, _located(name, value, start)) for name, value in message.get("headers", [])]
                message = {**message, "headers": headers}
            await send(message)

        inner = _without(scope, start)
        twice = inner is not scope and inner["raw_path"].startswith(start)  # Datasette would remove it again, behind the access check
        await (NOT_FOUND if twice else app)(inner, receive, sending)

    return below


def _without(scope: Scope, start: bytes) -> Scope:
    raw = bytes(scope.get("raw_path") or b"")
    if scope["type"] != "http" or not raw.startswith(start):
        return scope
    return {**scope, "raw_path": raw[len(start) - 1 :], "path": scope["path"][len(start) - 1 :]}


def _located(name: bytes, value: bytes, start: bytes) -> bytes:
    """Return the header's value; that of a Location on this host with the prefix."""
    ours = name.lower() == b"location" and value.startswith(b"/") and not value.startswith((b"//", start))
    return start[:-1] + value if ours else value
