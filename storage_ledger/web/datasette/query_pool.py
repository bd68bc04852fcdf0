"""Runs the processes that run SQL, and replaces those that do not end in time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

from storage_ledger.web.datasette.query_process import INTERRUPTED, KILL_AFTER_S, MAX_ANSWER_BYTES, Found, NoAnswer, Question, unpacked

START_S = 60.0
_MAX_PACKED_BYTES = 8 * MAX_ANSWER_BYTES
"""A character may take four bytes, and each value some more."""

_ENVIRONMENT = {
    name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SQLITE_TMPDIR", "TMPDIR") if name in os.environ
}
_ENVIRONMENT |= {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
"""A process's environment: no password hash, token or secret."""


class TooSlowError(Exception):
    """The statement was stopped at its time limit."""


class QueryPool:
    """As many processes as threads ask at the same time. They start when they are needed, and end with `close`."""

    def __init__(self, *, kill_after_s: float = KILL_AFTER_S) -> None:
        self._kill_after_s = kill_after_s
        self._idle: list[_Process] = []  # append and pop are atomic; the last used one is taken first
        self._all: list[_Process] = []
        self._closed = False

    def run(self, question: Question) -> Found | NoAnswer:
        """Run a statement and wait for its answer. Call it in a thread. Raises `TooSlowError`."""
        try:
            process = self._idle.pop()
        except IndexError:
            process = _Process()
            self._all.append(process)
        try:
            return NoAnswer("The web page is stopping.") if self._closed else process.ask(question, self._kill_after_s)
        finally:
            self._idle.append(process)

    @property
    def pids(self) -> list[int]:
        """The process ids of the running processes."""
        return [each.popen.pid for each in self._all if each.popen is not None]

    def close(self) -> None:
        """Kill all processes: running statements fail, and later ones, too."""
        self._closed = True
        for process in self._all:
            process.kill()


class _Process:
    """A process and our end of its socket. Started when needed, and again after it ended."""

    def __init__(self) -> None:
        self.popen: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def ask(self, question: Question, kill_after_s: float) -> Found | NoAnswer:
        """Ask the process. Kills it and raises `TooSlowError` if it does not answer in time."""
        try:
            line = self._started()
            line.send_bytes(question.packed())
            answer = unpacked(line.recv_bytes(_MAX_PACKED_BYTES)) if line.poll(question.limit_s + kill_after_s) else None
        except (EOFError, OSError):
            answer = NoAnswer("The process that ran this statement has ended.", last=True)
        if answer is None or (isinstance(answer, NoAnswer) and answer.last):
            self.end()
        if answer is None or answer == INTERRUPTED:
            raise TooSlowError
        return answer

    def kill(self) -> None:
        """Kill the process; whoever waits for its answer gets none."""
        if (popen := self.popen) is not None:
            popen.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it
                popen.wait(1)

    def end(self) -> None:
        """Kill the process and close the socket."""
        if self._line is not None:
            self._line.close()
            self._line = None
        self.kill()
        self.popen = None

    def _started(self) -> Connection:
        if self._line is not None and self.popen is not None and self.popen.poll() is None:
            return self._line
        self.end()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line = Connection(ours.detach())
        with its:
            command = [sys.executable, "-I", "-m", "storage_ledger.web.datasette.query_process"]
            self.popen = subprocess.Popen(
                command, stdin=its.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT, cwd="/"
            )
        if not self._line.poll(START_S):
            raise TimeoutError
        self._line.recv_bytes()
        return self._line
