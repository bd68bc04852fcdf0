"""A Status Service that costs as little as one in Python can: a thread a connection, raw sockets, statuses in memory.

    python lean_status.py PORT

It answers POST and GET /status/<study_id> and GET /health as the reference does, but keeps each POST as it came and parses it only
when it is read. Two more pages are for the benchmark: /count (POSTs that it has stored) and /arrivals (when each study's last POST came).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
from datetime import UTC, datetime

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_TOO_LONG = 1 << 20


class Statuses:
    """The last POST of each study. A thread a study at a time, and dictionaries: no lock is needed but for the count."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def answer(self, method: bytes, path: str, body: bytes) -> tuple[bytes, bytes]:
        """Return the status line's code and reason, and the JSON body."""
        head, _, study_id = path.rpartition("/")
        if head == "/status" and study_id and method == b"POST":
            if not body.startswith(b"{"):
                return b"400 Bad Request", b'{"detail":"the body must be a JSON object"}'
            self._kept[study_id] = (time.time(), body)
            with self._lock:
                self._count += 1
            return b"200 OK", b'{"message":"Status updated","study_id":"%s"}' % study_id.encode()
        if method != b"GET":
            return b"405 Method Not Allowed", b'{"detail":"Method Not Allowed"}'
        if head == "/status" and study_id:
            return self._read(study_id)
        match path:
            case "/health":
                return b"200 OK", b'{"status":"healthy","service":"status-service"}'
            case "/count":
                return b"200 OK", str(self._count).encode()
            case "/arrivals":
                return b"200 OK", json.dumps({study: at for study, (at, _) in self._kept.copy().items()}).encode()
            case _:
                return b"404 Not Found", b'{"detail":"Not Found"}'

    def _read(self, study_id: str) -> tuple[bytes, bytes]:
        if study_id not in self._kept:
            return b"404 Not Found", b'{"detail":"Study not found"}'
        at, body = self._kept[study_id]
        posted = json.loads(body)
        found = {"study_id": study_id, "status": posted["status"], "timestamp": datetime.fromtimestamp(at, UTC).isoformat()}
        return b"200 OK", json.dumps({**found, "details": posted.get("details")}).encode()


def serve(connection: socket.socket, statuses: Statuses) -> None:
    """Answer one connection's requests until the client closes it or sends what is not HTTP."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError):
        waiting = b""
        while (end := waiting.find(b"\r\n\r\n")) >= 0 or (waiting := more(connection, waiting)):
            if end < 0:
                continue
            head, waiting = waiting[:end], waiting[end + 4 :]
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            while len(waiting) < length:
                if not (waiting := more(connection, waiting)):
                    return
            method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
            code, out = statuses.answer(method, path.decode("ascii"), waiting[:length])
            waiting = waiting[length:]
            connection.sendall(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (code, len(out), out))


def more(connection: socket.socket, waiting: bytes) -> bytes:
    """Return `waiting` and what comes next; nothing if the client has closed, or sends too much."""
    part = connection.recv(65536)
    return waiting + part if part and len(waiting) < _TOO_LONG else b""


def main() -> None:
    statuses = Statuses()
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, statuses), daemon=True).start()


if __name__ == "__main__":
    main()
