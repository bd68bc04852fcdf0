"""Drive the service's own parts in one thread, from the messages to the end, so that each run makes the same system calls.

    python drive.py SOCKET STATUS_URL

imports once, listens on a Unix socket, and forks for each connection, so that a run does not pay for imports. The connection
carries one JSON object a line. First comes the job, `{"root": …, "folders": {"uploads": …, …}, "groups": [[message in hex, …],
…]}`; the child answers `{"pid": …}` and waits for a line, so that a tracer can attach. It then reports `{"acknowledged": n}` when
group n is recorded; `{"stuck": [step, …]}` when it makes no progress, and waits for a line; and finally `{"done": exit code, …}`.
If the connection ends without that, the process was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, StorageLedgerError
from storage_ledger.ledger import migrate as migrations
from storage_ledger.ledger.contract import WorkItem
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.service.process import Parts
from storage_ledger.service.steps import StepsHere
from storage_ledger.settings import Settings
from storage_ledger.system import locks, logs
from storage_ledger.wiring import serve as wiring
from storage_ledger.wiring.stores import UMASK

Tell = Callable[[dict[str, Any]], None]
STUCK_AFTER = 4  # rounds without progress
ROUNDS = 400
WORK = (Stage.PLACE, Stage.REMOVE, Stage.TELL)
PR_SET_PTRACER = 0x59616D61


class Always(Event):
    """An event that is always set: `Index.run` then follows to the end and returns."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def clear(self) -> None:
        """Stay set."""


def run(settings: Settings, client: StatusClient, groups: list[list[bytes]], tell: Tell, wait: Callable[[], None]) -> None:
    """Run like `wiring.serve.serve`, but in one thread and only until nothing is left to do."""
    os.umask(UMASK)
    migrations.make_folder(settings.ledger_path)
    with locks.held(settings.lock_file, "drive") as lock:
        migrations.migrate(settings.ledger_file)
        wiring._make_archive(settings)
        parts = wiring._parts(settings, client, lock)
        tell({"started": True})
        Drive(parts, groups, tell, wait).to_the_end()
        parts.index.close()
        parts.ledger.close()


class Drive:
    """Each round does the work of all lanes, one after another, and survives exactly the errors that a lane survives."""

    def __init__(self, parts: Parts, groups: list[list[bytes]], tell: Tell, wait: Callable[[], None]) -> None:
        assert isinstance(parts.steps, StepsHere)
        self.parts, self.pools = parts, parts.steps._pools
        self.waiting = deque(enumerate(groups))
        self.tell = tell
        self.wait = wait
        self.trouble: list[str] = []

    def to_the_end(self) -> None:
        """Run until everything is recorded, placed, removed, sent and indexed."""
        self.parts.metadata_sync.run(Always())
        before: object = None
        still = 0
        for _ in range(ROUNDS):
            self.trouble = []
            self.deliver()
            self.work(self.pools.placing)
            self.parts.replicator.follow()
            self.work(self.pools.removing)
            self.work(self.pools.notifying)
            self.parts.replicator.follow()
            self.parts.index.run(Always(), Always())
            now = self.state()
            if now == (0, {}, 0, 0):
                self.parts.metadata_sync.run(Always())
                return
            still = still + 1 if now == before else 0
            before = now
            if still >= STUCK_AFTER:
                self.tell({"stuck": self.trouble})
                self.wait()
                still = 0
            with self.outlived("due"), self.parts.ledger.write() as tx:
                tx.make_due(beyond_s=0)
        raise AssertionError(f"it never comes to rest: {before}")

    def deliver(self) -> None:
        """Deliver the next group of messages."""
        if self.waiting:
            number, group = self.waiting[0]
            with self.outlived("intake"):
                self.parts.intake.append([Delivery(raw, "pubsub") for raw in group])
                self.waiting.popleft()
                self.tell({"acknowledged": number})

    def work(self, pool: WorkerPool[Any]) -> None:
        """Do what the worker pool does, for all due work items."""
        policy = pool.policy
        with self.outlived(policy.step):
            groups: dict[object, list[WorkItem]] = {}
            up_to = None if policy.step == "place" else self.mirrored
            for work_item in self.parts.ledger.due(policy.stages, limit=1000, up_to=up_to):
                groups.setdefault((work_item.entry.study_id or work_item.entry.position) if policy.by_study else None, []).append(work_item)
            if groups:
                outcomes = [pool._threads._work(sorted(group, key=lambda work_item: work_item.entry.position)) for group in groups.values()]
                pool.record(outcomes, fresh=True)

    @property
    def mirrored(self) -> int:
        """Return the position up to which the other steps may proceed."""
        return self.parts.replicator._mirror.position

    @contextmanager
    def outlived(self, step: str) -> Any:
        """Record and survive an error that a thread of the service survives."""
        try:
            yield
        except LedgerBusy as error:
            self.trouble.append(f"{step}: {error.code}")

    def state(self) -> object:
        """Return what must change from round to round; (0, {}, 0, 0) when nothing is left."""
        with self.outlived("state"):
            queue = {length.stage.value: length.rows for length in self.parts.ledger.queue() if length.stage in WORK}
            last = self.parts.ledger.last()
            position = last.position if last else 0
            return len(self.waiting), queue, position - self.parts.index.position, position - self.mirrored
        return None


def serve(path: str, status_url: str) -> None:
    """Fork for each connection; return when stdin is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    client = StatusClient(status_url)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(path)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        os.write(1, b"listening\n")
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                child(connection, client, status_url)
            connection.close()


def child(connection: socket.socket, client: StatusClient, status_url: str) -> None:
    """Do one run. Never returns."""
    lines = connection.makefile("r")

    def tell(event: dict[str, Any]) -> None:
        connection.sendall(json.dumps(event).encode() + b"\n")

    def wait() -> None:
        if not lines.readline():
            os._exit(1)  # the process that started it has ended

    code, ended = 2, {}
    try:
        job = json.loads(lines.readline())
        output = os.open(f"{job['root']}/drive.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir("/")
        settings = Settings(
            **{f"{name}_path": Path(path) for name, path in job["folders"].items()},
            status_service_url=status_url,
            missing_file_grace_seconds=0,
            status_confirm_seconds=0,
            workers=0,
        )
        logs.configure(settings.log_level, environment="drive")
        # Where only a parent may trace (yama), allow the tracer, which is not the parent.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        tell({"pid": os.getpid()})
        wait()
        run(settings, client, [[bytes.fromhex(raw) for raw in group] for group in job["groups"]], tell, wait)
        code = 0
    except StorageLedgerError as error:  # the service exits with a reason
        ended = {"code": error.code, "at": logs.where(error)}
        traceback.print_exc()
    except BaseException as error:  # noqa: BLE001 - reported; then this process ends
        ended = {"code": type(error).__name__, "at": logs.where(error)}
        traceback.print_exc()
    with suppress(OSError):
        tell({"done": code, **ended})
    os._exit(code)


if __name__ == "__main__":
    serve(*sys.argv[1:])
