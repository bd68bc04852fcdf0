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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, get_args

from storage_ledger.system import logs
from storage_ledger.system.sandbox import LANDLOCK, SECCOMP
from storage_ledger.web.fair_queue import FairQueue, TooMany
from storage_ledger.web.files.pictures import (
    LENGTHS,
    MAX_ANSWER_BYTES,
    MAX_FILES,
    WHY,
    MediaKind,
    Rendered,
    RenderRequest,
    Unavailable,
)

Result = TypeVar("Result")

PATIENCE_S = 10.0
"""Time limit for one turn, counted from when a worker has the file, or several."""

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
            future = self._queue.submit(asker, partial(self._with, lambda worker: worker.make([mine], request, self._patience_s)))
        except TooMany:
            os.close(mine)
            raise Unavailable("pictures-busy") from None
        future.add_done_callback(lambda _: os.close(mine))
        made: Rendered | Unavailable = (await asyncio.wrap_future(future))[0]
        if isinstance(made, Unavailable):
            raise made
        return made

    async def make_some(self, files: Sequence[Callable[[], int]], request: RenderRequest, asker: str = "") -> list[Rendered | Unavailable]:
        """Run a request on the first of several files, on at least one. Returns their results, of `MAX_ANSWER_BYTES` together.

        The functions open the files, in a thread, when a worker is free.
        """
        try:
            future = self._queue.submit(asker, partial(self._with, partial(self._make_some, files[:MAX_FILES], request)))
        except TooMany:
            return [Unavailable("pictures-busy")]
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

    def _make_some(self, files: Sequence[Callable[[], int]], request: RenderRequest, worker: _Worker) -> list[Rendered | Unavailable]:
        opened: list[int | Unavailable] = []
        try:
            for open_file in files:
                try:
                    opened.append(open_file())
                except Unavailable as error:
                    opened.append(error)
            results = iter(worker.make([each for each in opened if isinstance(each, int)], request, self._patience_s))
            made: list[Rendered | Unavailable] = []
            for each in opened:
                result = each if isinstance(each, Unavailable) else next(results, None)
                if result is None:
                    break
                made.append(result)
            return made
        finally:
            for each in opened:
                if isinstance(each, int):
                    os.close(each)

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

    def make(self, descriptors: Sequence[int], request: RenderRequest, patience_s: float) -> list[Rendered | Unavailable]:
        """Return the results of the first files: of at least one, and of all if nothing fails.

        A file that fails beside others may do so because of them. It is the first one of the next turn, and only then at fault.
        """
        made: list[Rendered | Unavailable] = []
        if not descriptors:
            return made
        try:
            line = self.start()
        except Unavailable as error:
            return [error]
        until, left = time.monotonic() + patience_s, MAX_ANSWER_BYTES
        received = bytearray()
        try:
            socket.send_fds(line, [request.to_json().encode()], descriptors)
            while len(made) < len(descriptors) and self._line is not None:
                reply, data = _receive(line, until, received, left)
                left -= len(data)
                made.append(self._result(reply, data))
        except (OSError, ValueError, RecursionError) as error:
            self.end()
            if not made:
                crashed = "pictures-busy" if self._retired else "picture-crashed"
                made.append(Unavailable("picture-too-slow" if isinstance(error, TimeoutError) else crashed))
        else:
            if received:  # more than it was asked for
                self.end()
                made[-1] = Unavailable("picture-crashed")
        return made

    def _result(self, reply: Mapping[str, Any], data: bytes) -> Rendered | Unavailable:
        """Return the result that an answer says. A file may have taken the worker over: it is as untrusted as the file."""
        if reply.get("last"):  # it is about to exit
            self.end()
        if (code := str(reply.get("code"))) in WHY:
            where = str(reply.get("where"))
            return Unavailable(code, where if _PLACE.fullmatch(where) else "")
        kind = next((kind for kind in get_args(MediaKind) if kind == reply.get("kind")), None)
        if kind is None:
            self.end()
            return Unavailable("picture-crashed")
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
            reply, _ = _receive(ours, time.monotonic() + START_S, bytearray(), MAX_ANSWER_BYTES)
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


def _receive(line: socket.socket, until: float, received: bytearray, most: int) -> tuple[dict[str, Any], bytes]:
    """Receive an answer of up to `most` bytes: JSON and data.

    Raises `TimeoutError`, `OSError` if the worker ended, `ValueError` if the answer is longer or invalid.
    `received`: bytes that have been received already; afterwards, those of the next answer.
    """
    if len(received) < LENGTHS.size:
        beginning = bytearray(FIRST_BYTES)
        received += _some(line, memoryview(beginning), LENGTHS.size - len(received), until)
    first, second = LENGTHS.unpack_from(received)
    if first + second > most:
        raise ValueError("answer too long")
    answer = bytearray(LENGTHS.size + first + second)
    there = min(len(received), len(answer))
    answer[:there] = received[:there]
    del received[:there]
    _some(line, memoryview(answer)[there:], len(answer) - there, until)
    end = LENGTHS.size + first
    reply = json.loads(answer[LENGTHS.size : end])
    if not isinstance(reply, dict):
        raise ValueError("no answer")  # noqa: TRY004 - a worker's mistake, not ours
    return reply, bytes(memoryview(answer)[end:])


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
