"""Commands without the second that Python takes to import them: a process that has imported everything forks one on demand.

What is forked has no thread, no open file and no state of the service; what runs is the same `storage-ledger serve`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SERVER = """
import json, os, runpy, signal, sys
import alembic.command, redis.connection, uvicorn
import storage_ledger.app
from storage_ledger.cli import main

def ended(*_):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        os.write(1, json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\\n")

signal.signal(signal.SIGCHLD, ended)
for line in sys.stdin:
    order = json.loads(line)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, log, log)):
            os.dup2(descriptor, number)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.argv = order["command"]
        try:
            main() if sys.argv[0] == "storage-ledger" else runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
        os._exit(0)
    os.write(1, json.dumps({"pid": pid}).encode() + b"\\n")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
"""


class Warm:
    """The process that forks. `close` ends it; what it started goes on."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._rest = b""
        self._codes: dict[int, int] = {}

    def start(self, environment: Mapping[str, str], log: Path, folder: Path, *command: str) -> WarmProcess:
        """Run `storage-ledger …`, or a Python file, in a process group of its own."""
        assert self._process.stdin is not None
        order = {"environment": dict(environment), "log": str(log), "folder": str(folder), "command": command}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = None
        while pid is None:
            pid = self.hear(30.0)
        return WarmProcess(self, pid)

    def hear(self, timeout_s: float) -> int | None:
        """Note who has ended; return who has started, if that was what it said."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if b"\n" not in self._rest and select.select([descriptor], [], [], timeout_s)[0]:
            self._rest += os.read(descriptor, 65536)
        line, end, rest = self._rest.partition(b"\n")
        if not end:
            return None
        self._rest = rest
        said = json.loads(line)
        if "code" not in said:
            return int(said["pid"])
        self._codes[said["pid"]] = said["code"]
        return None

    def code(self, pid: int) -> int | None:
        return self._codes.get(pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class WarmProcess:
    """What `Stack` needs of `subprocess.Popen`."""

    def __init__(self, warm: Warm, pid: int) -> None:
        self._warm = warm
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self._hear(0.0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            self._hear(0.5)
            if self.returncode is None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("serve", timeout)
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _hear(self, timeout_s: float) -> None:
        if self._warm.code(self.pid) is None:
            self._warm.hear(timeout_s)
        self.returncode = self._warm.code(self.pid)
