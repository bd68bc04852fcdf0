"""A server of raw bytes: it answers each request with the next script, whatever HTTP says about it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterable
from typing import Self


class ScriptedServer:
    """Each script is a sequence of parts, sent one by one; CLOSE as the last one closes the connection.

    `requests`: the bytes of each, with the number of its connection (from 1). `closed` is set when the server has closed one.
    `protocols`: what was agreed with each client that speaks TLS.
    """

    CLOSE = b""

    def __init__(self, *scripts: Iterable[bytes], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, reads: bool = True) -> None:
        """With `reads` False, it answers when the head of a request has arrived, and leaves the body unread."""
        self.requests: list[tuple[int, bytes]] = []
        self.protocols: list[str | None] = []
        self.closed = threading.Event()
        self._scripts = iter(scripts)
        self._tls = tls
        self._reads = reads
        self._listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(len(self._open), connection)))
            self._threads[-1].start()

    def _serve(self, number: int, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(self.closed.set)
            stack.enter_context(connection)
            stream = connection
            if self._tls is not None:
                stream = tls = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
                self.protocols.append(tls.selected_alpn_protocol())
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := self._request(stream):
                self.requests.append((number, request))
                for part in next(self._scripts):
                    if part == self.CLOSE:
                        return
                    stream.sendall(part)

    def _request(self, stream: socket.socket) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found:
            data = stream.recv(1 if not self._reads else 65536)
            if not data:
                return b""
            found += data
        length = re.search(rb"(?i)content-length: *(\d+)", found)
        wanted = found.index(b"\r\n\r\n") + 4 + (int(length[1]) if length and self._reads else 0)
        while len(found) < wanted and (data := stream.recv(65536)):
            found += data
        return found
