"""Start commands without the second that their imports take: a process that has imported everything forks them on demand.

The forked process has no threads, open files or state of the service, and runs the same `storage-ledger serve` or other command.
Cold starts are tested by test_cold_starts, the demo and the tests under strace.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

IMPORTS = {
    "service": "alembic.command, redis.connection, rich.progress, typer.rich_utils, uvicorn, "
    "storage_ledger.wiring.adopt, storage_ledger.wiring.backup, storage_ledger.wiring.reconcile, storage_ledger.wiring.replay, "
    "storage_ledger.wiring.serve, storage_ledger.wiring.verify, "
    "storage_ledger.operations.report.status, storage_ledger.operations.report.timeline, "
    "storage_ledger.operations.restore",
    "browse": "storage_ledger.web.datasette.plugin, storage_ledger.web.server",
}
"""The imported modules, by purpose: `serve` never loads what `browse` needs."""

# An order is one message with three descriptors: one on which its process reports, standard output and standard error.
SERVER = """
import atexit, faulthandler, gc, json, os, runpy, select, signal, socket, sys, threading, traceback
from storage_ledger.cli.main import command_line, main

faulthandler.enable()  # on descriptor 2, which will be that of the command
control = socket.socket(fileno=int(sys.argv[1]))
children = {}
command_line()
gc.freeze()

def ended(*_):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        teller = children.pop(pid)
        try:
            os.write(teller, json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        except OSError:
            pass  # nobody wants to know any more
        os.close(teller)

def next_order():
    while True:
        # A signal that comes right before a blocking call does not interrupt it: its byte in the pipe does.
        if told in select.select([control, told], [], [])[0]:
            os.read(told, 4096)
            continue
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 18, 3)
        if not data:
            return None
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            return json.loads(data), descriptors
        children[pid] = descriptors[0]
        os.close(descriptors[1])
        os.close(descriptors[2])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

told, tells = os.pipe()
os.set_blocking(tells, False)
signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, ended)
interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is our owner's business: it ends what runs, then us
found = next_order()
if found is not None:  # from here on it is the command's own process
    order, (teller, out, err) = found
    control.detach()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.setsid()
    os.write(teller, json.dumps({"pid": os.getpid()}).encode())
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(descriptor, number)
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if user := int(os.environ.pop("RUN_AS", 0)):  # it has imported what that user may not be able to read
        "x".encode("idna")
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = order["command"]
    code = 1
    try:
        if sys.argv[0] == "storage-ledger":
            main()
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    # As the interpreter ends, but without destroying each object: copying the pages of all modules took half a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    os._exit(code)
"""


class Warm:
    """The process that forks. `close` ends it; the processes it started continue."""

    def __init__(self, what: str = "service") -> None:
        server = f"import {IMPORTS[what]}{SERVER}"
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", server, str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def start(self, environment: Mapping[str, str], log: Path, folder: Path, *command: str) -> WarmProcess:
        """Run `storage-ledger …` or a Python file in its own process group; append both its outputs to `log`."""
        with log.open("ab") as out:
            return self._start(environment, folder, command, out.fileno(), out.fileno())

    def run(self, environment: Mapping[str, str], folder: Path, *command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run it to completion, like `subprocess.run`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self._start(environment, folder, command, out.fileno(), err.fileno())
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout_s)
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        assert process.returncode is not None
        return subprocess.CompletedProcess(command, process.returncode, *texts)

    def _start(self, environment: Mapping[str, str], folder: Path, command: tuple[str, ...], out: int, err: int) -> WarmProcess:
        order = {"environment": dict(environment), "folder": str(folder), "command": command}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno(), out, err])
        return WarmProcess(ours)

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)


class WarmProcess:
    """The part of `subprocess.Popen` that `Stack` needs; thread-safe."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._lock = threading.Lock()
        self.returncode: int | None = None
        told.settimeout(60)
        self.pid: int = json.loads(told.recv(100))["pid"]

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._told], [], [], 0)[0]:
                self.returncode = json.loads(self._told.recv(100))["code"]
                self._told.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = deadline - time.monotonic()
            if left < 0:
                raise subprocess.TimeoutExpired("storage-ledger", timeout)
            with contextlib.suppress(ValueError, OSError):  # another thread has read its exit code
                select.select([self._told], [], [], left)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; the process may have ended by itself."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; it may have ended by itself."""
        self.send_signal(signal.SIGKILL)


_shared: dict[str, Warm] = {}
_lock = threading.Lock()


def shared(what: str = "service") -> Warm:
    """Return this run's process, starting it at the first call."""
    with _lock:
        if what not in _shared:
            _shared[what] = Warm(what)
        return _shared[what]


def close_shared() -> None:
    """End this run's process."""
    while _shared:
        _shared.popitem()[1].close()
