"""`storage-ledger serve` as a process with all its children, on fresh folders, fed with events."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from kept_connection import answers
from neighbours import Neighbours
from opponents import SETTLE_S, Run
from processes import cpu_s, own_cpu_s, pss_mb
from study_files import Event, Work

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from storage_ledger.system.sqlite import sqlite  # noqa: E402
from tests.support.valkey import Valkey, free_port  # noqa: E402
from tests.support.waiting import until  # noqa: E402

READING = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


class Ours:
    """`storage-ledger serve` as a process with all its children, from the first PUBLISH until every file is archived, every status sent
    and every upload removed, all durable.

    `workers` is passed on as WORKERS; None leaves the default.
    """

    def __init__(self, there: Neighbours, workers: int | None = None) -> None:
        self.name = "ours" if workers is None else f"ours, WORKERS={workers}"
        self._there = there
        self.workers = workers

    def run(self, work: Work) -> Run:
        with self.serve(work) as served:
            before, own_before, began = cpu_s(served.pid), own_cpu_s(served.pid), time.perf_counter()
            with WriteLock(work.ledger / "ledger.db") as lock:
                served.publish(work.stock.events)
                served.wait_until_done()
                seconds = time.perf_counter() - began
            time.sleep(SETTLE_S)
            cpu, own = cpu_s(served.pid) - before, own_cpu_s(served.pid) - own_before
            run = Run(seconds, cpu, pss_mb(served.pid), own, seconds * lock.share)
            assert not any(work.uploads.iterdir())
            return run

    @contextlib.contextmanager
    def serve(self, work: Work, *, uid: int | None = None) -> Iterator[Served]:
        """Start it on the folders of `work`, warmed up. `uid`: the user it runs as, if this is root.

        That user may read everything, since Python itself may be in a folder of root's; it has none of root's other rights.
        """
        port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": self._there.valkey.url,
            "DESCRIBED_CHANNEL": (channel := f"bench-{port}"),
            "STATUS_SERVICE_URL": f"http://127.0.0.1:{self._there.status.port}",
            "UPLOADS_PATH": str(work.uploads),
            "ARCHIVE_PATH": str(work.archive),
            "LEDGER_PATH": str(work.ledger),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "LOG_LEVEL": "WARNING",
            **({} if self.workers is None else {"WORKERS": str(self.workers)}),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start would compile the package again
        command = [sys.executable, "-m", "storage_ledger", "serve"]
        if uid is not None:
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *READING, *command]
        process = subprocess.Popen(command, env=environment, cwd=ROOT)
        try:
            until(lambda: answers(process, port, "/readyz"), 60, what="serve is ready", every_s=0.05)
            with contextlib.closing(Served(process.pid, self._there.valkey, channel, work)) as served:
                served.publish(work.stock.warm_up)
                served.wait_until_done()
                time.sleep(SETTLE_S)
                yield served
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Served:
    """A running `serve`, fed with events."""

    def __init__(self, pid: int, valkey: Valkey, channel: str, work: Work) -> None:
        self.pid = pid
        self._channel = channel
        self._client = valkey.client()
        self._ledger = sqlite.connect(f"file:{work.ledger / 'ledger.db'}?mode=ro", uri=True, timeout=30, isolation_level=None)
        self._published = self._archived = self._read = 0

    def publish(self, events: list[Event]) -> None:
        """All at once."""
        for i in range(0, len(events), 200):
            with self._client.pipeline(transaction=False) as pipeline:
                for event in events[i : i + 200]:
                    pipeline.publish(self._channel, event.text)
                assert all(pipeline.execute()), "nobody listens"
        self._published += len(events)

    def publish_evenly(self, events: list[Event], a_second: float) -> dict[str, float]:
        """At that rate; when each study was published, by its study_id."""
        published = {}
        began = time.time()
        for number, event in enumerate(events):
            time.sleep(max(0.0, began + number / a_second - time.time()))
            published[event.study_id] = time.time()
            self._client.publish(self._channel, event.text)
        self._published += len(events)
        return published

    def wait_until_done(self) -> None:
        """Return when all published events are archived, told, and their uploads removed."""

        def done() -> bool:
            for position, kind in self.query("SELECT position, kind FROM entries WHERE position > ? ORDER BY position", self._read):
                self._read, self._archived = position, self._archived + (kind == "archived")
            if self._archived < self._published:
                return False
            return not self.query("SELECT 1 FROM pending WHERE stage IN ('place', 'remove', 'tell') LIMIT 1")

        until(done, 300, what="all archived and told", every_s=0.005)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._ledger.execute(sql, values).fetchall()
        return rows

    def close(self) -> None:
        self._ledger.close()
        self._client.close()


class WriteLock:
    """Samples for which share of the time anybody holds the write lock of a database in WAL mode: byte 120 of its -shm, as the kernel lists
    it (sqlite.org/walformat.html#wal_locks).
    """

    EVERY_S = 0.005

    def __init__(self, database: Path) -> None:
        self._line = f":{Path(f'{database}-shm').stat().st_ino} 120 "
        self._held: list[bool] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def share(self) -> float:
        return sum(self._held) / len(self._held)

    def _sample(self) -> None:
        while not self._end.wait(self.EVERY_S) or not self._held:
            self._held.append(self._line in Path("/proc/locks").read_text())
