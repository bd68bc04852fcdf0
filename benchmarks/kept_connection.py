"""The leanest HTTP client: one kept connection over a bare socket, one request at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess


class KeptConnection:
    """One HTTP/1.1 connection over a bare socket. Any answer but 200 fails."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> bytes:
        self._socket.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
        return self._answer()

    def post(self, path: str, body: bytes) -> bytes:
        self._socket.sendall(head(path, len(body), b"application/json") + body)
        return self._answer()

    def post_file(self, path: str, file: str, content_type: str) -> bytes:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            self._socket.send(head(path, size, content_type.encode()), socket.MSG_MORE)
            sent = 0
            while sent < size:
                sent += os.sendfile(self._socket.fileno(), descriptor, sent, size - sent)
        finally:
            os.close(descriptor)
        return self._answer()

    def _answer(self) -> bytes:
        data = self._socket.recv(65536)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        assert data.startswith(b"HTTP/1.1 200"), data[:80]
        lower = data[:end].lower()
        length = int(lower[lower.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
        while len(data) < end + 4 + length:
            data += self._more()
        return data[end + 4 :]

    def _more(self) -> bytes:
        part = self._socket.recv(65536)
        assert part, "the server closed the connection"
        return part

    def close(self) -> None:
        self._socket.close()


def head(path: str, length: int, content_type: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (path.encode(), content_type, length)


def answers(process: subprocess.Popen[bytes], port: int, path: str) -> bool:
    """Whether GET answers 200. Fails if the process has ended."""
    assert process.poll() is None, f"it ended with {process.returncode}"
    try:
        with contextlib.closing(KeptConnection(port)) as connection:
            connection.get(path)
    except (OSError, AssertionError):
        return False
    return True
