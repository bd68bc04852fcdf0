"""Runs the worker processes, and replaces those that crash, hang or use too much memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from storage_ledger.system import logs
from storage_ledger.system.sandbox import LANDLOCK, SECCOMP
from storage_ledger.web.fair_queue import FairQueue, TooMany
from storage_ledger.web.files.pictures import LENGTHS, MAX_ANSWER_BYTES, WHY, MediaKind, Rendered, RenderRequest, Unavailable

Result = TypeVar("Result")

PATIENCE_S = 10.0
"""Time limit for one request, counted from when a worker has it."""

START_S = 60.0
MAX_WAITING = 256
MAX_WAITING_OF_ONE = 64
"""Requests of one asker that may wait: a page of thumbnails, and a few more pages."""

FIRST_BYTES = 32 << 10
"""Received at once: most answers are no longer."""

_PLACE = re.compile(r"[\w.: <>-]{1,500}", re.ASCII)
_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
"""A worker's environment: no password hash, token or secret, and no threads, because each reserves memory."""


class Pool:
    """Up to `workers` processes. They start with the first request or with `warm`, and end with `close`."""

    def __init__(self, workers: int, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._workers = [_Worker(self._announce) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._queue: FairQueue[Any] = FairQueue("pictures", workers, waiting=MAX_WAITING, waiting_of_one=MAX_WAITING_OF_ONE)
        self._announced = threading.Lock()

    def warm(self) -> None:
        """Start the workers ahead of the first request. Returns immediately."""
        for _ in self._workers:
            self._queue.submit("", self._warm)

    async def make(self, descriptor: int, request: RenderRequest, asker: str = "") -> Rendered:
        """Run a request on an open file, which the caller still has to close. Raises `Unavailable`.

        Requests that run at the same time each need a file that was opened for them: workers move its position.
        Askers take turns. If the caller is cancelled before its turn, nothing is rendered.
        """
        mine = os.dup(descriptor)  # the caller may be gone, and its file closed, before a worker is free
        try:
            future = self._queue.submit(asker, lambda: self._make(mine, request))
        except TooMany:
            os.close(mine)
            raise Unavailable("pictures-busy") from None
        future.add_done_callback(lambda _: os.close(mine))
        return await asyncio.wrap_future(future)

    @property
    def pids(self) -> list[int]:
        """The process ids of the running workers."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def close(self) -> None:
        """Kill all workers. Unfinished requests raise `Unavailable`."""
        for worker in self._workers:
            worker.retire()
        self._queue.close()
        for worker in self._workers:
            worker.end()

    def _warm(self) -> None:
        with contextlib.suppress(Unavailable):
            self._with(lambda worker: worker.start())

    def _make(self, descriptor: int, request: RenderRequest) -> Rendered:
        return self._with(lambda worker: worker.make(descriptor, request, self._patience_s))

    def _announce(self, sandbox: frozenset[str]) -> None:
        """Log once what confines the workers: the kernel may be too old, or a container's seccomp profile may forbid it."""
        if self._announced.acquire(blocking=False):
            missing = sorted({LANDLOCK, SECCOMP} - sandbox)
            if missing:
                logs.get().warning("browse.image-workers-not-confined", reason=f"this system has no {' and no '.join(missing)}")
            else:
                logs.get().info("browse.image-workers-confined", reason=" and ".join(sorted(sandbox)))

    def _with(self, use: Callable[[_Worker], Result]) -> Result:
        worker = self._idle.get()
        try:
            return use(worker)
        finally:
            self._idle.put(worker)


class _Worker:
    """A worker process and our end of its socket. Started when needed, and again after it ended."""

    def __init__(self, announce: Callable[[frozenset[str]], None]) -> None:
        self._announce = announce
        self.process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._retired = False

    def make(self, descriptor: int, request: RenderRequest, patience_s: float) -> Rendered:
        line = self.start()
        until = time.monotonic() + patience_s
        try:
            socket.send_fds(line, [json.dumps(request.to_json()).encode()], [descriptor])
            reply, data = _receive(line, until)
        except TimeoutError:
            self.end()
            raise Unavailable("picture-too-slow") from None
        except (OSError, ValueError, RecursionError):
            self.end()
            raise Unavailable("pictures-busy" if self._retired else "picture-crashed") from None
        if reply.get("last"):  # it is about to exit: do not give it the next request
            self.end()
        # A file may have taken the worker over: its answer is as untrusted as the file.
        if (code := str(reply.get("code"))) in WHY:
            where = str(reply.get("where"))
            raise Unavailable(code, where if _PLACE.fullmatch(where) else "")
        kind = next((kind for kind in get_args(MediaKind) if kind == reply.get("kind")), None)
        if kind is None:
            self.end()
            raise Unavailable("picture-crashed")
        about = reply.get("about")
        return Rendered(kind, data, about if isinstance(about, dict) else {})

    def start(self) -> socket.socket:
        """Start the process unless it runs. Returns our end of the socket. Raises `Unavailable` if it does not start."""
        if self._line is not None and self.process is not None and self.process.poll() is None:
            return self._line
        self.end()
        if self._retired:
            raise Unavailable("pictures-busy")
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line = ours
        try:
            with its:
                command = [sys.executable, "-I", "-m", "storage_ledger.web.files.pictures.worker"]
                self.process = subprocess.Popen(
                    command, stdin=its.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT, cwd="/"
                )
            reply, _ = _receive(ours, time.monotonic() + START_S)
        except (OSError, ValueError):
            self.end()
            raise Unavailable("picture-crashed", "worker did not start") from None
        self._announce(frozenset(reply["sandbox"]))
        return ours

    def retire(self) -> None:
        """Kill the process for good, so that waiting callers return with an error."""
        self._retired = True
        if (process := self.process) is not None:
            process.kill()

    def end(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _receive(line: socket.socket, until: float) -> tuple[dict[str, Any], bytes]:
    """Receive an answer: JSON and data. Raises `TimeoutError`, `OSError` if the worker ended, `ValueError` if invalid."""
    beginning = _some(line, memoryview(bytearray(FIRST_BYTES)), LENGTHS.size, until)
    first, second = LENGTHS.unpack_from(beginning)
    if first + second > MAX_ANSWER_BYTES:
        raise ValueError("answer too long")
    answer = bytearray(max(first + second, len(beginning) - LENGTHS.size))
    there = len(beginning) - LENGTHS.size
    answer[:there] = beginning[LENGTHS.size :]
    _some(line, memoryview(answer)[there:], len(answer) - there, until)
    reply = json.loads(answer[:first])
    if not isinstance(reply, dict) or len(answer) > first + second:
        raise ValueError("no answer")
    return reply, bytes(memoryview(answer)[first:])


def _some(line: socket.socket, buffer: memoryview, least: int, until: float) -> memoryview:
    """Receive at least `least` bytes into the buffer. Returns the part of it that is filled."""
    count = 0
    while count < least:
        line.settimeout(max(0.001, until - time.monotonic()))
        got = line.recv_into(buffer[count:])
        if got == 0:
            raise ConnectionResetError("the worker has ended")
        count += got
    return buffer[:count]
