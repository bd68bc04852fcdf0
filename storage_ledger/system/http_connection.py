"""A kept-open HTTP connection with a deadline for each call: httpx's transport without its client."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

KEEP_IDLE_S = 3.0
"""Shorter than uvicorn's five seconds: if the server closed an idle connection first, a POST could be lost."""


class Connection:
    """One connection, used by one call at a time. Without an httpx client: no redirects, cookies or proxies, and a quarter less CPU.

    A pool for all threads would close connections that it has just given to another thread (httpcore 1.0.9, encode/httpcore#1110:
    with 8 threads on 4 connections, 37 of 4,000 POSTs failed with EBADF or hung, and each would count as an outage).
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.deadline = Deadline()
        self.transport = _Transport(context, self.deadline)


class _Transport(httpx.HTTPTransport):
    """httpx's transport, with a pool of one connection that respects a deadline at every step.

    It replaces the pool because httpx (0.28) accepts no network backend; a test with a slow answer would notice a change.
    """

    def __init__(self, context: ssl.SSLContext, deadline: Deadline) -> None:
        super().__init__(verify=context)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=1,
            max_keepalive_connections=1,
            keepalive_expiry=KEEP_IDLE_S,
            network_backend=_Backend(deadline),
        )


class Deadline:
    """The end of a call. httpx's time-outs are for single reads, which a slow answer can outlast."""

    at: float = 0.0

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """Return the time-out of one step; raise `error` when there is no time left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error
        return left if timeout is None else min(left, timeout)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: Deadline) -> None:
        self._inner = httpcore.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
