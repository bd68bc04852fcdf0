"""An HTTP server: an app on a port, in a thread, with limits on what strangers can take of it."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from storage_ledger.errors import BadSettings

MOST_CONNECTIONS = 512
"""More are closed unanswered: each takes a descriptor, of which a process often has 1024."""

MOST_OF_THE_SERVICE = 64
"""The same of the service, which programs ask now and then: placing files takes descriptors, too."""

REQUEST_WITHIN_S = 10.0
"""So long a connection may stay without a whole request on it; after an answer uvicorn's own time begins."""


class WebServer:
    """An app on a port, in a thread of its own. `start` and `stop` once each; `stop` without `start` does nothing."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._listener: socket.socket | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; the wanted one (0: any) before `start`."""
        return self._port

    def start(self, around: Callable[[Callable[[], None]], None] = lambda job: job()) -> None:
        """Listen; on return a request is answered, or waits until the thread is up. `around` runs the thread's job.

        `around` may run the job again after it has ended or raised: then it listens on the same port again. Raises
        `BadSettings` naming HTTP_PORT or HTTP_HOST when nobody can listen there.
        """
        self._listener = listen(self._host, self._port, "HTTP")
        self._port = port_of(self._listener)
        self._thread = threading.Thread(target=around, args=(self._serve,), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port, let running requests end (5 s at most), end the thread."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        listener = self._listener or listen(self._host, self._port, "HTTP")
        self._listener = None  # the server closes it when it ends
        with closing(listener):
            self._server = server = Server(self._app, most_connections=MOST_OF_THE_SERVICE)
            server.should_exit = self._stopped
            server.run([listener])


class Server(uvicorn.Server):
    """uvicorn without its habits: no set-up of logging, no access log (paths hold ids), no foreign event loop.

    In the main thread it takes SIGTERM and SIGINT over while it runs and raises them again at its end; elsewhere it
    leaves signals alone. More than `most_connections` at a time are closed, and so are those that send no request.
    """

    def __init__(self, app: ASGIApp, *, most_connections: int = MOST_CONNECTIONS, request_within_s: float = REQUEST_WITHIN_S) -> None:
        bounded = type("Bounded", (_Bounded,), {"most_connections": most_connections, "request_within_s": request_within_s})
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=bounded,
                backlog=most_connections,  # so many are accepted in one go, before the first of them can be refused
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=5,
            )
        )


class _Bounded(H11Protocol):
    """uvicorn keeps as many connections as come, and waits for a request for ever; asyncio writes a line for each that it cannot accept."""

    most_connections: int
    request_within_s: float
    _refused = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)
        self._refused = len(self.connections) >= self.most_connections
        if self._refused:
            connection.abort()
            return
        super().connection_made(connection)
        self._wait_for_a_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if not self._refused:
            super().connection_lost(exc)

    def _wait_for_a_request(self) -> None:
        if self._patience is None and not self._at_work():
            self._patience = self.loop.call_later(self.request_within_s, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        if not self._at_work() and self.timeout_keep_alive_task is None:
            self.transport.close()

    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


def listen(host: str, port: int, name: str) -> socket.socket:
    """Listen on a TCP port; 0 takes a free one.

    Raises `BadSettings`; `name` is how the two settings begin (`HTTP` for HTTP_HOST and HTTP_PORT).
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
        # Inherited by what it accepts. asyncio sets it only where it knows the protocol's number, and without it an
        # answer of two writes waits 40 ms for the other side's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except UnicodeError as error:
        raise BadSettings("bad-settings", f"{name}_HOST: is no host name") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{name}_PORT: {port} is in use on {host}; stop what listens there, or choose another port"
        elif error.errno in {errno.EACCES, errno.EPERM}:
            text = f"{name}_PORT: {port} needs rights that this process lacks; choose one above 1023"
        else:
            text = f"{name}_HOST: {host} is no address of this machine"
        raise BadSettings("bad-settings", text, errno=error.errno) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """Return the port that a socket listens on."""
    port: int = listener.getsockname()[1]
    return port
