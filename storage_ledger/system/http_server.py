"""An HTTP server in a thread, with limits for its clients."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from storage_ledger.errors import BadSettings
from storage_ledger.system.addresses import network_of

MOST_CONNECTIONS = 512
"""Further connections are closed: each takes a descriptor, and a process is often limited to 1024."""

MOST_OF_THE_SERVICE = 64
"""The same limit for the service, which few programs query, and which needs descriptors to place files."""

SHARE_OF_NETWORK = 3 / 4
"""What one client may have of these. It is large, because a reverse proxy is one client, too."""

RESERVE = 8
"""Connections beyond these limits, which may only ask whether the server lives."""

REQUEST_WITHIN_S = 10.0
"""A request that is not complete within this time, body included, is cut off; after a response, uvicorn's own limit applies."""


WRITE_WITHIN_S = 30.0
LEAST_TAKEN_BYTES = 32 << 10
"""A connection is closed if its client does not take as much of an answer, or the rest, within this time: some 1 kB a second."""


class WebServer:
    """An app on a port, in its own thread. Call `start` and `stop` once each; `stop` without `start` does nothing."""

    def __init__(self, app: ASGIApp, host: str, port: int, *, health: Collection[str] = ()) -> None:
        self._app = app
        self._health = health
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._listener: socket.socket | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port; before `start`, the requested one (0: any)."""
        return self._port

    def start(self, around: Callable[[Callable[[], None]], None] = lambda job: job()) -> None:
        """Listen; from then on requests are answered, or wait until the thread is up. `around` runs the thread's job.

        `around` may run the job again after the job has returned or raised; it then listens on the same port. Raises `BadSettings`,
        naming HTTP_PORT or HTTP_HOST, if the address cannot be used.
        """
        self._listener = listen(self._host, self._port, "HTTP")
        self._port = port_of(self._listener)
        self._thread = threading.Thread(target=around, args=(self._serve,), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port, let running requests finish (for up to 5 s), and end the thread."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        listener = self._listener or listen(self._host, self._port, "HTTP")
        self._listener = None  # the server closes it when it ends
        with closing(listener):
            self._server = server = Server(self._app, health=self._health, most_connections=MOST_OF_THE_SERVICE)
            server.should_exit = self._stopped
            server.run([listener])


class Server(uvicorn.Server):
    """uvicorn without its own logging, access log (paths contain ids) or event loop.

    In the main thread it handles SIGTERM and SIGINT while it runs and raises them again at its end; elsewhere it leaves signals alone.
    It closes connections beyond `most_connections`, and those that send no request. Of those beyond, a few may ask for the paths in
    `health`. `protocol` is uvicorn's HTTP implementation.
    """

    _ending: Callable[[], object] | None = None
    _should_exit = False

    def __init__(
        self,
        app: ASGIApp,
        *,
        health: Collection[str] = (),
        protocol: type[asyncio.Protocol] = H11Protocol,
        most_connections: int = MOST_CONNECTIONS,
        request_within_s: float = REQUEST_WITHIN_S,
        write_within_s: float = WRITE_WITHIN_S,
    ) -> None:
        limits = {
            "most_connections": most_connections,
            "request_within_s": request_within_s,
            "write_within_s": write_within_s,
            "health": frozenset(health),
        }
        bounded = type("Bounded", (_Bounded, protocol), limits)
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=bounded,
                backlog=most_connections + RESERVE,  # accepted in one go, before the first of them can be refused
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=5,
            )
        )

    async def main_loop(self) -> None:
        """Wait until `should_exit` is set. uvicorn asks ten times a second, which costs an idle process 0.2 % of a processor."""
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._ending = lambda: loop.call_soon_threadsafe(end.set)
        try:
            while not await self.on_tick(0):  # 0: it also renews the Date header
                with suppress(TimeoutError):
                    await asyncio.wait_for(end.wait(), 1)
        finally:
            self._ending = None  # the loop will be closed

    @property
    def should_exit(self) -> bool:
        """Set it to end the server, in a signal handler or from another thread."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        ending = self._ending  # read once: the server's thread may clear it meanwhile
        if value and ending is not None:
            ending()


class _Bounded(asyncio.Protocol):
    """Limits connections: uvicorn has no limit and waits for ever, and asyncio logs a line for each that it cannot accept."""

    most_connections: int
    request_within_s: float
    write_within_s: float
    health: frozenset[str]
    app: ASGIApp
    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    network = ""
    since = 0.0
    in_reserve = False
    _refused = False
    _request_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _has_taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)
        self.since = self.loop.time()
        self.network = network_of(str((connection.get_extra_info("peername") or ("",))[0]))
        self.in_reserve = self._is_beyond_limits()
        self._refused = self.in_reserve and not self._has_room_in_reserve()
        if self._refused:
            connection.abort()
            return
        if self.in_reserve:
            self.app = _only(self.health, self.app)
        super().connection_made(connection)
        self._watch_request()
        self._watch_writing(0)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc] # both of uvicorn's protocols have it
        if not self.cycle.response_complete:  # the next request was sent along with this one, perhaps not all of it
            self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._stop_timer()
        if not self._refused:
            super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_taken = True

    def is_answering(self) -> bool:
        """Return whether a complete request has arrived and is not answered yet."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _is_beyond_limits(self) -> bool:
        of_network = sum(each.network == self.network for each in self.connections)
        return len(self.connections) >= self.most_connections or of_network >= self.most_connections * SHARE_OF_NETWORK

    def _has_room_in_reserve(self) -> bool:
        """Make room if necessary: a connection of the reserve that has sent no request gives way to the next one."""
        reserve = [each for each in self.connections if each.in_reserve]
        if len(reserve) < RESERVE:
            return True
        silent = min((each for each in reserve if not each.is_answering()), key=lambda each: each.since, default=None)
        if silent is not None:
            silent.transport.abort()
            self.connections.discard(silent)  # its end is reported later
        return silent is not None

    def _watch_request(self) -> None:
        """Time a request from its beginning until the whole of it has come."""
        if self.is_answering():
            self._stop_timer()
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(self.request_within_s, self.transport.abort)

    def _watch_writing(self, before: int) -> None:
        """Abort if too little has been taken since the last look. Closing would not do: it waits until all is taken."""
        left = self.transport.get_write_buffer_size()
        if before > 0 and left > max(0, before - LEAST_TAKEN_BYTES) and not self._has_taken:
            self.transport.abort()
            return
        self._has_taken = False
        self._write_timer = self.loop.call_later(self.write_within_s, self._watch_writing, left)

    def _stop_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None


def _only(paths: Collection[str], app: ASGIApp) -> ASGIApp:
    """Return an app that answers these paths alone, and closes the connection after anything else."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        known = scope["path"] in paths
        await (app if known else PlainTextResponse("Too many connections\n", 503, {"Connection": "close"}))(scope, receive, send)

    return answer


@contextmanager
def ended_by_signals(server: Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT only stop the server: uvicorn would raise them again, which would kill the process."""

    def end(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int, name: str) -> socket.socket:
    """Listen on a TCP port; 0 chooses a free one.

    Raises `BadSettings`; `name` is the prefix of the two settings (`HTTP` for HTTP_HOST and HTTP_PORT).
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
        # Accepted connections inherit it. asyncio sets it only if it knows the protocol's number; without it, an answer in two writes
        # waits 40 ms for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except UnicodeError as error:
        raise BadSettings("bad-settings", f"{name}_HOST: is not a host name") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{name}_PORT: {port} is in use on {host}; stop what listens there, or choose another port"
        elif error.errno in {errno.EACCES, errno.EPERM}:
            text = f"{name}_PORT: {port} needs privileges that this process lacks; choose a port above 1023"
        else:
            text = f"{name}_HOST: {host} is not an address of this machine"
        raise BadSettings("bad-settings", text, errno=error.errno) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """Return the port that a socket listens on."""
    port: int = listener.getsockname()[1]
    return port
