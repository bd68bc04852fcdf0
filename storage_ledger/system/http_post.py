"""One POST with a deadline and a limited answer, for servers that are asked rarely. No redirects, cookies or proxies."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass

import httpcore
import httpx

from storage_ledger.system.http_connection import Connection, client_context


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whatever its code. `content_type`: without parameters, in small letters."""

    code: int
    content_type: str
    body: bytes


def is_url(text: str) -> bool:
    """Return whether `post` understands a URL."""
    try:
        return bool(httpx.URL(text).host)
    except httpx.InvalidURL:
        return False


def post(url: str, body: bytes, content_type: str, *, within_s: float, most_bytes: int) -> Reply:
    """Send a POST on a connection of its own, with the URL's user and password. `within_s` covers all but looking up the host's name.

    Raises one of `http_connection.BROKEN`; `httpcore.RemoteProtocolError` if the answer has more than `most_bytes`.
    """
    request = httpx.Request("POST", url, headers={"Content-Type": content_type, "User-Agent": "storage-ledger"}, content=body)
    if request.url.username or request.url.password:
        next(httpx.BasicAuth(request.url.username, request.url.password).sync_auth_flow(request))
    context = client_context() if request.url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    head = b"".join(b"%s: %s\r\n" % header for header in request.headers.raw)
    connection = Connection(request.url, context)
    try:
        whole = b"POST %s HTTP/1.1\r\n%sConnection: close\r\n\r\n%s" % (request.url.raw_path, head, body)
        with contextlib.closing(connection.call(whole, time.monotonic() + within_s)) as answer:
            found = bytearray()
            for chunk in answer.body():
                found += chunk
                if len(found) > most_bytes:
                    raise httpcore.RemoteProtocolError
            return Reply(answer.code, answer.content_type.partition(";")[0].strip().lower(), bytes(found))
    finally:
        connection.close()
