"""Messages between the service and a worker process: JSON objects, one a line, over a socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_CHUNK = 1 << 16


class Channel:
    """One end. Any thread may send; one receives. Sending never blocks: a process that was stopped must not stop the other one.

    A message is dropped while the other end does not read. What must arrive is sent again with the next message.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()
        self._unsent = b""
        self._unread = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, or drop it if the other end does not read or has gone."""
        with self._sending, suppress(OSError):
            self._flush()
            if not self._unsent:
                self._unsent = json.dumps(message).encode() + b"\n"
                self._flush()

    def wait_for_message(self) -> None:
        """Wait until there is something to receive, or raise `EOFError` if the other end is closed."""
        self._unread = self._end.recv(_CHUNK)
        if not self._unread:
            raise EOFError

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield each message, and end when the other end is closed."""
        while True:
            *lines, self._unread = self._unread.split(b"\n")
            yield from map(json.loads, lines)
            try:
                chunk = self._end.recv(_CHUNK)
            except ConnectionError:
                return
            if not chunk:
                return
            self._unread += chunk

    def close(self) -> None:
        """Close this end. The iterator of `received` at the other one ends."""
        self._end.close()

    def _flush(self) -> None:
        while self._unsent:
            try:
                sent = self._end.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]
