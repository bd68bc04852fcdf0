"""The reference Status Service: it implements the neighbour's wire contract for compose, the demo and the tests.

The last POST wins. `status:<study_id>` in Redis holds `{"status", "timestamp", "details"}` without expiry.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from redis import RedisError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from storage_ledger.system import logs
from storage_ledger.system.http_server import Server, ended_by_signals, listen, port_of

MAX_BODY_BYTES = 1 << 20
MAX_HEAD_BYTES = 1 << 16

_STUDY_ID = re.compile(r"[A-Za-z0-9._~:@!$&'()*+,;=-]{1,128}")
_ENCODER = json.JSONEncoder(allow_nan=False)


def make_server(redis_url: str) -> Server:
    """Create the server, to run once. It connects to Redis at the first request.

    Every response is a JSON object; errors are `{"detail": …}` with 400, 404, 405, 413, 415, or 500 if Redis is unavailable.
    """
    # No retries: clients get an immediate answer and retry themselves. The pool replaces closed connections.
    pool = BlockingConnectionPool.from_url(
        redis_url, max_connections=32, timeout=5, protocol=2,
        socket_connect_timeout=2, socket_timeout=5, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    redis = Redis.from_pool(pool)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _until_shutdown(receive, send)
            await redis.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            value = await _answer(scope, receive, redis)
        except _Refused as refused:
            await _send(send, refused.code, {"detail": refused.detail}, *refused.headers)
        except RedisError as error:
            logs.get().warning("status_service.redis_away", error_type=type(error).__name__)
            await _send(send, 500, {"detail": "Redis is unavailable"})
        else:
            await _send(send, 200, value)

    # A plain ASGI function on the parser in C: with Starlette and h11, a request takes nearly twice the CPU.
    return Server(app, health=["/health"], protocol=_Protocol)


def run(redis_url: str, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then return. Call it in the main thread. Port 0 takes a free port, which is logged.

    Raises `BadSettings` if the address cannot be used.
    """
    server = make_server(redis_url)
    with ended_by_signals(server), contextlib.closing(listen(host, port, "STATUS_SERVICE")) as listener:
        logs.get().info("status_service.listening", host=host, port=port_of(listener))
        server.run([listener])


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers


async def _answer(scope: Scope, receive: Receive, redis: Redis) -> dict[str, Any]:
    path: str = scope["path"]
    method: str = scope["method"]
    if path == "/health":
        if method not in {"GET", "HEAD"}:
            raise _Refused(405, "Method Not Allowed", (b"allow", b"GET, HEAD"))
        return {"status": "healthy", "service": "status-service"}
    study_id = path.removeprefix("/status/")
    if study_id == path or not study_id or "/" in study_id:
        raise _Refused(404, "Not Found")
    if method not in {"GET", "HEAD", "POST"}:
        raise _Refused(405, "Method Not Allowed", (b"allow", b"GET, HEAD, POST"))
    if not _STUDY_ID.fullmatch(study_id) or study_id in {".", ".."}:
        raise _Refused(400, "study_id must be 1 to 128 characters that are safe in a path")
    if method == "POST":
        if _media_type(scope) != b"application/json":  # a page of another site can send anything else without being asked
            raise _Refused(415, "Content-Type must be application/json")
        return await _write(study_id, await _body(receive), redis)
    return await _read(study_id, redis)


async def _write(study_id: str, body: bytes, redis: Redis) -> dict[str, Any]:
    value = _checked(body)
    kept = {
        "status": value["status"],
        "timestamp": datetime.now(UTC).isoformat(),
        "details": value.get("details"),
    }
    await redis.set(_key(study_id), _dumps(kept))
    return {"message": "Status updated", "study_id": study_id}


async def _read(study_id: str, redis: Redis) -> dict[str, Any]:
    kept = await redis.get(_key(study_id))
    if kept is None:
        raise _Refused(404, "Study not found")
    return {"study_id": study_id, **json.loads(kept)}


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused(400, "the body is incomplete")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _Refused(413, f"the body must have at most {MAX_BODY_BYTES} bytes", (b"connection", b"close"))
        more = message.get("more_body", False)
    return bytes(body)


def _media_type(scope: Scope) -> bytes:
    value = next((bytes(value) for name, value in scope["headers"] if name == b"content-type"), b"")
    return value.partition(b";")[0].strip().lower()


def _checked(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
        _dumps(value)  # NaN, infinities and deep nesting can be read but not written: every GET would fail
    except (ValueError, RecursionError):
        raise _Refused(400, "the body must be JSON") from None
    if not isinstance(value, dict):
        raise _Refused(400, "the body must be a JSON object")
    if not isinstance(value.get("status"), str) or not value["status"]:
        raise _Refused(400, "status must be a non-empty string")
    if not isinstance(value.get("details"), (dict, type(None))):
        raise _Refused(400, "details must be an object or null")
    return value


def _key(study_id: str) -> str:
    return f"status:{study_id}"


def _dumps(value: object) -> str:
    """Return ASCII JSON, in which a lone surrogate stays an escape: UTF-8 could not encode it."""
    return _ENCODER.encode(value)


async def _send(send: Send, code: int, value: object, *headers: tuple[bytes, bytes]) -> None:
    body = _dumps(value).encode("ascii")
    content = ((b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": code, "headers": [*headers, *content]})
    await send({"type": "http.response.body", "body": body})


async def _until_shutdown(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with the parser in C, which has no limit for what comes before the body: this one is h11's."""

    _head_bytes = 0.0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        self._head_bytes = -math.inf  # until the body has ended
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0.0
        super().on_message_complete()
