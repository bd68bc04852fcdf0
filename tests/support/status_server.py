"""A Status Service over real HTTP, in this process, with faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `body`: the parsed JSON of a POST, or None."""

    method: str
    study_id: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do instead of answering normally; the parts happen in the order of these fields."""

    hang: threading.Event | None = None
    """Wait for this (or the end of the server) first."""
    close: Literal["before-storing", "after-storing"] | None = None
    """Close the connection without an answer."""
    code: int | None = None
    """Answer with this code (200 if only a body is given); anything but 2xx stores nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Answer with these bytes."""
    chunks: Callable[[], Iterable[bytes]] | None = None
    """Answer with a chunked body of these, which may be slow or endless."""
    raw: Callable[[], Iterable[bytes]] | None = None
    """Send these bytes as they are, status line included, then close."""


class StatusServer:
    """Keeps each study's last status, like the real service, and every POST in order of arrival.

    `next(...)` queues faults for the next requests, one each; `always` (a fault, or a function from the call to a fault or
    None) applies when the queue is empty. `posts`: everything that arrived, stored or not; `headers`: those of every request.
    """

    def __init__(self, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._faults: deque[Fault | None] = deque()
        self.always: Fault | Callable[[Call], Fault | None] | None = None
        self.posts: list[Call] = []
        self.reads: list[Call] = []
        self.statuses: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.ending = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="status-server")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self, *faults: Fault | None) -> None:
        """Queue faults for the next requests; None is a normal answer."""
        with self._lock:
            self._faults.extend(faults)

    def status(self, study_id: str) -> str | None:
        """Return the status word that a client would read now."""
        with self._lock:
            kept = self.statuses.get(study_id)
        return None if kept is None else str(kept["status"])

    def posted(self, study_id: str) -> list[str]:
        """Return the statuses that were POSTed for a study, in order."""
        with self._lock:
            return [call.body["status"] for call in self.posts if call.study_id == study_id]

    def late_described(self, study_id: str, metadata: Mapping[str, Any]) -> None:
        """Overwrite a status as the descriptor does: it publishes first and sets its own status afterwards."""
        self._store(study_id, {"status": "described", "details": dict(metadata)})

    def forget(self, study_id: str | None = None) -> None:
        """Lose one status, or all of them, as a Redis without persistence does."""
        with self._lock:
            if study_id is None:
                self.statuses.clear()
            else:
                self.statuses.pop(study_id, None)

    def close(self) -> None:
        """End the server and every connection, and release hanging faults. May be called twice."""
        if self.ending.is_set():
            return
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()

    def met(self, call: Call) -> Fault | None:
        """Record a request; return the fault for it."""
        with self._lock:
            (self.posts if call.method == "POST" else self.reads).append(call)
            if self._faults:
                return self._faults.popleft()
            always = self.always
        return always(call) if callable(always) else always

    def answer(self, call: Call) -> tuple[int, dict[str, Any]]:
        """Do what a good Status Service does; return code and body."""
        if call.method == "POST":
            self._store(call.study_id, call.body)
            return 200, {"message": "Status updated", "study_id": call.study_id}
        with self._lock:
            kept = self.statuses.get(call.study_id)
        return (404, {"detail": "Study not found"}) if kept is None else (200, {"study_id": call.study_id, **kept})

    def _store(self, study_id: str, body: Mapping[str, Any]) -> None:
        kept = {"status": body["status"], "timestamp": "2026-01-01T00:00:00+00:00", "details": body.get("details")}
        with self._lock:
            self.statuses[study_id] = kept


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them, so that no thread or socket outlives a test
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: StatusServer) -> None:
        self.owner = owner
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._sockets.add(request)
            self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._sockets.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, json.dumps({"status": "healthy", "service": "status-service"}).encode())
        else:
            self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        call = Call(method, unquote(self.path.removeprefix("/status/")), json.loads(raw) if raw else None)
        owner.headers.append(dict(self.headers))
        fault = owner.met(call)
        if fault is None:
            code, value = owner.answer(call)
            self._send(code, json.dumps(value).encode())
            return
        if fault.hang is not None:
            while not (fault.hang.wait(0.01) or owner.ending.is_set()):
                pass
        if fault.close != "before-storing" and (fault.code or 200) < 300:
            code, value = owner.answer(call)
        else:
            code, value = fault.code or 500, {"detail": "a fault"}
        code = fault.code or (200 if fault.body is not None or fault.chunks is not None else code)
        if fault.close is not None:
            self.close_connection = True
        elif fault.raw is not None:
            self.close_connection = True
            self._stream(fault.raw())
        elif fault.chunks is not None:
            self._send(code, None, {"Transfer-Encoding": "chunked", **fault.headers})
            self._stream(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in fault.chunks())
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._send(code, json.dumps(value).encode() if fault.body is None else fault.body, fault.headers)

    def _stream(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            if self.server.owner.ending.is_set():
                self.close_connection = True
                return
            self.wfile.write(part)

    def _send(self, code: int, body: bytes | None, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Log nothing."""
