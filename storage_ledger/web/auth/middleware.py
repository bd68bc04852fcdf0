"""Access check for every request, in front of all routes.

Datasette checks its own permissions too, but plugin routes, static files and some `/-/` pages check nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage_ledger.web.auth.access_log import AccessLog
from storage_ledger.web.auth.redirects import login_query

LOGIN = "/-/login"
LOGOUT = "/-/logout"
HEALTH = "/-/health"
STYLE = "/-/ledger/browse.css"
OPEN = frozenset({LOGIN, HEALTH, STYLE, "/-/static/app.css", "/favicon.ico"})
"""Addresses that need no login. None of them shows data."""

MAX_BODY_BYTES = 64 << 10

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Nothing is loaded from or sent to another site. Neither our pages nor Datasette's have inline scripts or styles.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}
_NAMES = re.compile(r"/(?:image|file|header|dicom|zip)/")


class AccessMiddleware:
    """Allows or refuses requests, and logs to `log` what the allowed ones viewed.

    `who` returns the actor of a scope, None if unknown. `advice` is the text for a request without an actor. `refused` takes
    an actor and a path and returns why the actor may not see it, None if it may.
    """

    def __init__(
        self,
        app: ASGIApp,
        who: Callable[[Scope], Awaitable[str | None]],
        advice: str,
        refused: Callable[[str, str], str | None],
        log: AccessLog,
    ) -> None:
        self._app = app
        self._who = who
        self._advice = advice
        self._refused = refused
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _sanitized(scope)
        send = _with_security_headers(send, _HEADERS, path=_path(scope), tls=scope["scheme"] == "https")
        answer = self._refusal(scope)
        if answer is None and _path(scope) not in OPEN:
            actor = await self._who(scope)
            if actor is None:
                answer = self._login_required(scope)
            elif (why := self._refused(actor, _path(scope))) is not None:
                answer = forbidden(_path(scope), why)
            else:
                self._log.begin(scope)
                send = self._log_view(send, scope, actor)
        await (answer or self._app)(scope, receive, send)

    def _log_view(self, send: Send, scope: Scope, actor: str) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                await self._log.end(scope, _path(scope), actor, message["status"])
            await send(message)

        return sending

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that needs no actor: a refusal or the health check. None for all others."""
        path, method = _path(scope), scope["method"]
        if _hostile(path) or _has_another_address(path):
            return PlainTextResponse("Invalid address\n", 400)
        allowed = ("GET", "HEAD", "POST") if path in {LOGIN, LOGOUT} else ("GET", "HEAD")
        if method not in allowed:
            return PlainTextResponse("Read-only: this method is not allowed\n", 405, {"Allow": ", ".join(allowed)})
        if path == HEALTH:
            return PlainTextResponse("ok")
        if method == "POST" and not 0 <= _length(scope) <= MAX_BODY_BYTES:
            return PlainTextResponse(f"A form needs a Content-Length of at most {MAX_BODY_BYTES} bytes\n", 413)
        return None

    def _login_required(self, scope: Scope) -> Response:
        if b"text/html" in _header(scope, b"accept"):
            back = login_query(_path(scope), scope.get("query_string", b"").decode("latin-1")) if scope["method"] == "GET" else ""
            return RedirectResponse(LOGIN + back, 302)
        return forbidden(_path(scope), self._advice)


def forbidden(path: str, why: str) -> Response:
    """Return a plain 403 response."""
    if ".json" in path:
        return JSONResponse({"ok": False, "status": 403, "error": why}, 403)
    return PlainTextResponse(why + "\n", 403)


def _path(scope: Scope) -> str:
    """Return the path as Datasette routes it: not decoded."""
    raw: bytes | None = scope.get("raw_path")
    path = scope["path"] if raw is None else raw.decode("latin-1")
    return str(path).partition("?")[0]


def _hostile(path: str) -> bool:
    r"""Return whether a redirect to this path could leave the site: browsers read `/\host` and `//host` as another host."""
    escaped = "%5c" in path.lower() and not _NAMES.match(path)  # file names and UIDs may contain it; these routes never redirect
    return "\\" in path or escaped or not path.startswith("/") or path.startswith("//") or not path.isprintable()


def _has_another_address(path: str) -> bool:
    """Return whether a route, database or table name is encoded: grants and the access log compare plain names."""
    steps = path.split("/")
    names = steps[1:3] if steps[1] in {"index", "ledger"} else steps[1:2]
    return any("%" in name or "~" in name for name in names)


def _sanitized(scope: Scope) -> Scope:
    """Trust a proxy about TLS, which is harmless if wrong. Drop Basic credentials, which would cost 0.1 s of CPU each."""
    headers = [(k, v) for k, v in scope["headers"] if not (k == b"authorization" and not v.lower().startswith(b"bearer "))]
    behind_tls = _header(scope, b"x-forwarded-proto").strip().lower() == b"https"
    return {**scope, "headers": headers, "scheme": "https" if behind_tls else scope["scheme"]}


def _with_security_headers(send: Send, ours: dict[str, str], *, path: str, tls: bool) -> Send:
    """Add our headers to every response, keep patient data out of caches and cookies away from scripts."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(k.lower(), v) for k, v in message.get("headers", [])]
            headers = [(k, _cookie(v, tls=tls) if k == b"set-cookie" else v) for k, v in headers if k.decode("latin-1") not in ours]
            kept = path.startswith("/image/") and any(k == b"cache-control" and v.startswith(b"private,") for k, v in headers)
            if not kept and not (path in OPEN and path.endswith((".css", ".ico"))):
                headers = [(k, v) for k, v in headers if k != b"cache-control"]
                headers.append((b"cache-control", b"no-store"))
            headers += [(k.encode(), v.encode()) for k, v in ours.items()]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def _cookie(value: bytes, *, tls: bool) -> bytes:
    first, *attributes = [part.strip() for part in value.split(b";")]
    kept = [a for a in attributes if a.partition(b"=")[0].lower() not in {b"httponly", b"samesite", b"secure"}]
    return b"; ".join([first, *kept, b"HttpOnly", b"SameSite=Lax", *([b"Secure"] if tls else [])])


def _header(scope: Scope, name: bytes) -> bytes:
    return next((bytes(v) for k, v in scope["headers"] if k == name), b"")


def _length(scope: Scope) -> int:
    length = _header(scope, b"content-length")
    return int(length) if length.isdigit() else -1
