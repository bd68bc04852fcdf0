"""The reference Status Service: it implements the neighbour's wire contract for compose, the demo and the tests.

The last POST wins. `status:<study_id>` in Redis holds `{"status", "timestamp", "details"}` without expiry.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from redis import RedisError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from storage_ledger.system import logs
from storage_ledger.system.http_server import Server, listen, port_of

MAX_BODY_BYTES = 1 << 20

_STUDY_ID = re.compile(r"[A-Za-z0-9._~:@!$&'()*+,;=-]{1,128}")


def make_app(redis_url: str) -> Starlette:
    """Create the app. It connects to Redis at the first request and belongs to one event loop.

    Every response is a JSON object; errors are `{"detail": …}` with 400, 404, 405, 413, or 500 if Redis is unavailable.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # No retries: clients get an immediate answer and retry themselves. The pool replaces closed connections.
        pool = BlockingConnectionPool.from_url(
            redis_url, max_connections=32, timeout=5, protocol=2,
            socket_connect_timeout=2, socket_timeout=5, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        async with Redis.from_pool(pool) as client:
            app.state.redis = client
            yield

    app = Starlette(
        routes=[Route("/health", _health), Route("/status/{study_id}", _status, methods=["GET", "POST"])],
        exception_handlers={HTTPException: _http_error, RedisError: _redis_away},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def run(redis_url: str, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then return. Call it in the main thread. Port 0 takes a free port, which is logged.

    Raises `BadSettings` if the address cannot be used.
    """
    server = Server(make_app(redis_url))
    with _ended_by_signals(server), contextlib.closing(listen(host, port, "STATUS_SERVICE")) as listener:
        logs.get().info("status_service.listening", host=host, port=port_of(listener))
        server.run([listener])


async def _health(_: Request) -> Response:
    return _json({"status": "healthy", "service": "status-service"})


async def _status(request: Request) -> Response:
    return await (_write(request) if request.method == "POST" else _read(request))


async def _write(request: Request) -> Response:
    study_id = _study_id(request)
    value = _checked(await _body(request))
    kept = {
        "status": value["status"],
        "timestamp": datetime.now(UTC).isoformat(),
        "details": value.get("details"),
    }
    redis: Redis = request.app.state.redis
    await redis.set(_key(study_id), _dumps(kept))
    return _json({"message": "Status updated", "study_id": study_id})


async def _read(request: Request) -> Response:
    study_id = _study_id(request)
    redis: Redis = request.app.state.redis
    kept = await redis.get(_key(study_id))
    if kept is None:
        raise HTTPException(404, "Study not found")
    return _json({"study_id": study_id, **json.loads(kept)})


def _study_id(request: Request) -> str:
    study_id: str = request.path_params["study_id"]
    if not _STUDY_ID.fullmatch(study_id) or study_id in {".", ".."}:
        raise HTTPException(400, "study_id must be 1 to 128 characters that are safe in a path")
    return study_id


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    taken = 0
    try:
        async for part in request.stream():
            taken += len(part)
            if taken > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body must have at most {MAX_BODY_BYTES} bytes", {"Connection": "close"})
            parts.append(part)
    except ClientDisconnect:
        raise HTTPException(400, "the body is incomplete") from None
    return b"".join(parts)


def _checked(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
        _dumps(value)  # NaN, infinities and deep nesting can be read but not written: every GET would fail
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body must be JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    if not isinstance(value.get("status"), str) or not value["status"]:
        raise HTTPException(400, "status must be a non-empty string")
    if not isinstance(value.get("details"), (dict, type(None))):
        raise HTTPException(400, "details must be an object or null")
    return value


def _key(study_id: str) -> str:
    return f"status:{study_id}"


def _dumps(value: object) -> str:
    """Return ASCII JSON, in which a lone surrogate stays an escape: UTF-8 could not encode it."""
    return json.dumps(value, allow_nan=False)


def _json(value: object, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_dumps(value), code, headers, media_type="application/json")


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # never: Starlette passes only the registered type
        raise error
    return _json({"detail": error.detail}, error.status_code, dict(error.headers or {}))


async def _redis_away(_: Request, error: Exception) -> Response:
    logs.get().warning("status_service.redis_away", error_type=type(error).__name__)
    return _json({"detail": "Redis is unavailable"}, 500)


@contextlib.contextmanager
def _ended_by_signals(server: Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT only stop the server: uvicorn would raise them again, which would kill the process."""

    def end(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
