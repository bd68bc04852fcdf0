"""Access check for every request, in front of all routes.

Datasette checks its own permissions too, but plugin routes, static files and some `/-/` pages check nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage_ledger.service.checkpoint_answer import CHECKPOINT
from storage_ledger.web.auth import forms
from storage_ledger.web.auth.access_log import AccessLog
from storage_ledger.web.auth.redirects import login_query

LOGIN = "/-/login"
LOGOUT = "/-/logout"
HEALTH = "/-/health"
STYLE = "/-/ledger/browse.css"
OPEN = frozenset({LOGIN, HEALTH, STYLE, CHECKPOINT, "/-/static/app.css", "/favicon.ico"})
"""Addresses that need no login. None of them shows data."""

TLOG = "/tlog/"
"""Hashes of the ledger, for whoever checks it. None of them tells what was hashed."""

VIEWER = "/ohif/"
"""The viewer's files: programs, no data. They are for those who may read DICOMweb."""

ACTOR = "storage_ledger.actor"
"""Who asks, in the scope of a request that was let in."""

MAX_BODY_BYTES = 64 << 10
NO_FORM = f"A form is {forms.FORM.decode()} and ASCII\n"

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
_VIEWER_POLICY = _HEADERS["content-security-policy"].replace(
    "object-src 'none'", "script-src 'self' 'unsafe-eval'; object-src 'self' blob:; frame-src blob:"
)
"""For the viewer's page and workers. They make functions from text, for segmentations, JPEG-LS and JPEG 2000; and an encapsulated PDF is
handed to the browser's reader as a `blob:`, which has this policy too."""

_CACHED = ("/image/", VIEWER, TLOG)
"""What a browser or a cache may keep if its route says so."""

_TLS_HEADERS = {"strict-transport-security": "max-age=31536000"}
"""A browser that was here over TLS comes by TLS only, for a year."""

_PREFIX = b"__Host-"
"""Over TLS our cookies have it: browsers then take them from this host only, over TLS only (RFC 6265bis §4.1.3.2)."""

_NAMES = re.compile(r"/(?:image|file|header|dicom|zip|proof|dicom-web)/")


class AccessMiddleware:
    """Allows or refuses requests, and logs to `log` what the allowed ones viewed.

    `who` returns the actor of a scope, None if unknown. `advice` is the text for a request without an actor. `refused` takes
    an actor and a path and returns why the actor may not see it, None if it may. `is_our_host` decides on the Host
    header. `healthy` returns whether the databases answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        who: Callable[[Scope], Awaitable[str | None]],
        advice: str,
        refused: Callable[[str, str], str | None],
        is_our_host: Callable[[str], bool],
        healthy: Callable[[], Awaitable[bool]],
        log: AccessLog,
    ) -> None:
        self._app = app
        self._who = who
        self._advice = advice
        self._refused = refused
        self._is_our_host = is_our_host
        self._healthy = healthy
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _sanitized(scope)
        send = _with_security_headers(send, scope)
        answer = self._refusal(scope)
        if answer is None and _path(scope) == HEALTH:
            answer = PlainTextResponse("ok") if await self._healthy() else PlainTextResponse("The databases do not answer\n", 503)
        if answer is None and _path(scope) not in OPEN:
            actor = await self._who(scope)
            if actor is None:
                answer = self._login_required(scope)
            elif (why := self._refused(actor, _path(scope))) is not None:
                answer = forbidden(_path(scope), why)
            else:
                scope[ACTOR] = actor
                self._log.begin(scope, actor)
                send = self._log_view(send, scope, actor)
        if answer is None and scope["method"] == "POST":
            form = await forms.received(scope, receive)
            answer, receive = (PlainTextResponse(NO_FORM, 400), receive) if form is None else (None, form)
        await (answer or self._app)(scope, receive, send)

    def _log_view(self, send: Send, scope: Scope, actor: str) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                await self._log.end(scope, _path(scope), actor, message["status"])
            await send(message)

        return sending

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that needs no actor: a refusal. None for all others."""
        path, method = _path(scope), scope["method"]
        if not self._is_our_host(_header(scope, b"host").decode("latin-1")):
            return PlainTextResponse("Unknown host name: BROWSE_HOSTS lists the names of this page\n", 421)
        if _hostile(path) or _has_another_address(path):
            return PlainTextResponse("Invalid address\n", 400)
        allowed = ("GET", "HEAD", "POST") if path in {LOGIN, LOGOUT} else ("GET", "HEAD")
        if method not in allowed:
            return PlainTextResponse("Read-only: this method is not allowed\n", 405, {"Allow": ", ".join(allowed)})
        if method == "POST" and _is_from_another_site(scope):
            return PlainTextResponse("This form was sent by another site\n", 403)
        if method == "POST" and not 0 <= _length(scope) <= MAX_BODY_BYTES:
            return PlainTextResponse(f"A form needs a Content-Length of at most {MAX_BODY_BYTES} bytes\n", 413)
        return None

    def _login_required(self, scope: Scope) -> Response:
        if b"text/html" in _header(scope, b"accept"):
            back = login_query(_path(scope), scope.get("query_string", b"").decode("latin-1")) if scope["method"] == "GET" else ""
            return RedirectResponse(LOGIN + back, 302)
        if _path(scope).startswith("/dicom-web/"):
            return PlainTextResponse(self._advice + "\n", 401, {"WWW-Authenticate": "Bearer"})
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


def _is_from_another_site(scope: Scope) -> bool:
    """Return whether a browser says that another site's page sent this form. Programs send no such header."""
    if site := _header(scope, b"sec-fetch-site"):
        return site not in {b"same-origin", b"none"}
    origin = _header(scope, b"origin")  # older browsers, and all browsers without TLS
    return bool(origin) and origin.partition(b"://")[2] != _header(scope, b"host")


def _sanitized(scope: Scope) -> Scope:
    """Trust a proxy about TLS, which is harmless if wrong.

    Drop Basic credentials, which would cost 0.1 s of CPU each, and what `asgi_csrf` cannot decode or compare: cookies that are not
    ASCII, and a header that our forms do not use.
    """
    tls = scope["scheme"] == "https" or _header(scope, b"x-forwarded-proto").strip().lower() == b"https"
    headers = [(k, _plain_cookies(v) if tls and k == b"cookie" else v) for k, v in scope["headers"] if _is_kept(k, v)]
    return {**scope, "headers": headers, "scheme": "https" if tls else scope["scheme"]}


def _is_kept(name: bytes, value: bytes) -> bool:
    match name:
        case b"authorization":
            return value.lower().startswith(b"bearer ")
        case b"cookie":
            return value.isascii()
        case _:
            return name != b"x-csrftoken"


def _plain_cookies(cookies: bytes) -> bytes:
    """Return our cookies without their prefix; others may have been set by another host of the domain."""
    ours = [part.strip().removeprefix(_PREFIX) for part in cookies.split(b";") if part.strip().startswith(_PREFIX)]
    return b"; ".join(ours)


def _with_security_headers(send: Send, scope: Scope) -> Send:
    """Add our headers to every response, keep patient data out of caches and cookies away from scripts."""
    path, tls = _path(scope), scope["scheme"] == "https"
    ours = _HEADERS | _TLS_HEADERS if tls else _HEADERS
    if path.startswith(VIEWER):
        ours = ours | {"content-security-policy": _VIEWER_POLICY}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(k.lower(), v) for k, v in message.get("headers", [])]
            headers = [(k, _cookie(v, tls=tls) if k == b"set-cookie" else v) for k, v in headers if k.decode("latin-1") not in ours]
            kept = path.startswith(_CACHED) and any(k == b"cache-control" and v.startswith((b"private,", b"public,")) for k, v in headers)
            if not kept and not (path in OPEN and path.endswith((".css", ".ico", CHECKPOINT))):
                headers = [(k, v) for k, v in headers if k != b"cache-control"]
                headers.append((b"cache-control", b"no-store"))
            headers += [(k.encode(), v.encode()) for k, v in ours.items()]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def _cookie(value: bytes, *, tls: bool) -> bytes:
    first, *attributes = [part.strip() for part in value.split(b";")]
    kept = [a for a in attributes if a.partition(b"=")[0].lower() in {b"expires", b"max-age"}]
    ours = [b"Path=/", b"HttpOnly", b"SameSite=Lax", *([b"Secure"] if tls else [])]
    return b"; ".join([_PREFIX + first if tls else first, *kept, *ours])


def _header(scope: Scope, name: bytes) -> bytes:
    return next((bytes(v) for k, v in scope["headers"] if k == name), b"")


def _length(scope: Scope) -> int:
    """Return the announced length of the body, or -1. Content-Length means nothing beside Transfer-Encoding (RFC 9112 §6.3)."""
    length = b"" if _header(scope, b"transfer-encoding") else _header(scope, b"content-length")
    return int(length) if length.isdigit() else -1
