"""A few workers, and an end for those that take too long, take too much or crash: the site goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from storage_ledger.web.files.pictures import LENGTHS, Rendered, RenderRequest, Unavailable

Result = TypeVar("Result")

PATIENCE_S = 10.0
"""For one file, from when a worker has it."""

START_S = 60.0
MAX_WAITING = 256
MAX_ANSWER_BYTES = 64 << 20

_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
"""Of a worker: no password hash, no token, no secret; and no threads, each of which reserves memory."""


class Pool:
    """Up to `workers` processes. They start with the first question, or with `warm`, and end with `close`."""

    def __init__(self, workers: int, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._workers = [_Worker() for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
        self._room = threading.Semaphore(MAX_WAITING)

    def warm(self) -> None:
        """Have the workers ready before anybody asks; returns at once."""
        for _ in self._workers:
            self._threads.submit(self._warm)

    async def make(self, descriptor: int, request: RenderRequest) -> Rendered:
        """Do what is requested with the open file, which stays the caller's. Raises `Unavailable`."""
        if not self._room.acquire(blocking=False):
            raise Unavailable("pictures-busy")
        mine = os.dup(descriptor)  # who asked may be gone, and its file closed, before a worker is free

        def done(_: Future[Rendered]) -> None:
            os.close(mine)
            self._room.release()

        try:
            future = self._threads.submit(self._make, mine, request)
        except RuntimeError:  # it is closed
            os.close(mine)
            raise Unavailable("pictures-busy") from None
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    @property
    def pids(self) -> list[int]:
        """Of the workers that run just now."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def close(self) -> None:
        """End all of them at once; what is being made is not finished."""
        for worker in self._workers:
            worker.retire()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def _warm(self) -> None:
        with contextlib.suppress(Unavailable):
            self._with(lambda worker: worker.start())

    def _make(self, descriptor: int, request: RenderRequest) -> Rendered:
        return self._with(lambda worker: worker.make(descriptor, request, self._patience_s))

    def _with(self, use: Callable[[_Worker], Result]) -> Result:
        worker = self._idle.get()
        try:
            return use(worker)
        finally:
            self._idle.put(worker)


class _Worker:
    """A process and our end of its socket; started when it is needed, and again after it had to go."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._retired = False

    def make(self, descriptor: int, request: RenderRequest, patience_s: float) -> Rendered:
        line = self.start()
        until = time.monotonic() + patience_s
        try:
            socket.send_fds(line, [json.dumps(request.to_json()).encode()], [descriptor])
            told, data = _heard(line, until)
        except TimeoutError:
            self.end()
            raise Unavailable("picture-too-slow") from None
        except (OSError, ValueError):
            self.end()
            raise Unavailable("pictures-busy" if self._retired else "picture-crashed") from None
        if told.get("last"):  # it ends by itself; the next one shall not meet it on its way out
            self.end()
        if "code" in told:
            raise Unavailable(told["code"], str(told.get("where", "")))
        return Rendered(told["kind"], data)

    def start(self) -> socket.socket:
        """Our end of the line. Raises `Unavailable` when no process can be had."""
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
            _heard(ours, time.monotonic() + START_S)
        except (OSError, ValueError):
            self.end()
            raise Unavailable("picture-crashed", "a worker does not start") from None
        return ours

    def retire(self) -> None:
        """End the process, so that waiting callers get no answer; it is not started again."""
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


def _heard(line: socket.socket, until: float) -> tuple[dict[str, Any], bytes]:
    """What it says: JSON, and bytes. Raises `TimeoutError`, `OSError` when it has gone, `ValueError` for nonsense."""
    first, second = LENGTHS.unpack(_exactly(line, LENGTHS.size, until))
    if first + second > MAX_ANSWER_BYTES:
        raise ValueError("too long an answer")
    told = json.loads(_exactly(line, first, until))
    return told, _exactly(line, second, until)


def _exactly(line: socket.socket, count: int, until: float) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        line.settimeout(max(0.001, until - time.monotonic()))
        got = line.recv_into(view)
        if got == 0:
            raise ConnectionResetError("it has gone")
        view = view[got:]
    return bytes(buffer)
