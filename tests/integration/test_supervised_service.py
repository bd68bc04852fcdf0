"""The whole service in this process with one of its jobs failing: it reports which, and still archives everything."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.reason import Reason
from storage_ledger.errors import LedgerUnusable, Retryable
from storage_ledger.ledger.migrate import migrate
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.service.health import make_app
from storage_ledger.service.process import Service
from storage_ledger.settings import Settings
from storage_ledger.system.http_server import WebServer
from storage_ledger.system.sqlite import sqlite
from storage_ledger.wiring import serve
from tests.support.dicom import described, make_file
from tests.support.waiting import until

FAILURES = 2


class Running:
    """A service on its own folders; `with_job` changes one of its jobs before it starts."""

    def __init__(self, root: Path, valkey, status_server) -> None:
        self.valkey = valkey
        self.status_server = status_server
        for name in ("uploads", "archive", "ledger"):
            (root / name).mkdir()
        self.channel = valkey.channel()
        self.settings = Settings(
            redis_url=valkey.url, described_channel=self.channel, status_service_url=status_server.url, uploads_path=root / "uploads",
            archive_path=root / "archive", ledger_path=root / "ledger", http_host="127.0.0.1", http_port=0,
            workers=0,
        )  # fmt: skip
        migrate(self.settings.ledger_file)
        self.client = StatusClient(status_server.url)
        self.parts = serve._parts(self.settings, self.client, lock=-1)
        self.service = Service(self.parts)
        self.web = WebServer(make_app(self.service.reasons, self.service.render_metrics), "127.0.0.1", 0)

    def run(self, meanwhile: Callable[[], None]) -> int:
        """Run it in this thread, for its signals, and `meanwhile` in another; stop after that and return the exit code."""
        raised: list[BaseException] = []

        def watch() -> None:
            try:
                meanwhile()
            except BaseException as error:  # noqa: BLE001 - raised below
                raised.append(error)
            finally:
                self.service.stop()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = self.service.run(self.web)
        finally:
            watcher.join(60)
            self.client.close()
        if raised:
            raise raised[0]
        return code

    def archive(self, study_id: str) -> None:
        until(lambda: self.parts.source.subscribed, 30)
        path = self.settings.uploads_path / f"{study_id}.dcm"
        message = described(study_id, f"/app/uploads/{path.name}", make_file(path, seed=1))
        data = path.read_bytes()
        self.valkey.publish(self.channel, json.dumps(message).encode())
        until(lambda: self.status_server.status(study_id) == "archived", 30)
        until(lambda: not path.exists(), 30)
        assert (self.settings.archive_path / study_id / path.name).read_bytes() == data

    def reasons(self) -> set[str]:
        return {f"{reason.code} {reason.detail}" for reason in self.service.reasons()}


@pytest.fixture
def running(tmp_path, valkey, status_server) -> Running:
    return Running(tmp_path, valkey, status_server)


def runner(parts: Any, job: str) -> Any:
    """Return the object whose `run` is this job."""
    pools = parts.steps._pools
    lanes = {"place": pools.placing, "remove": pools.removing, "notify": pools.notifying}
    others = {"mirror": parts.replicator, "reconcile": parts.reconciler, "clock": parts.clock_watch}
    return {**lanes, **others}.get(job) or getattr(parts, job)


def failing(run: Callable[..., None], error: BaseException, times: int) -> Callable[..., None]:
    left = [error] * times

    def sometimes(*arguments: Any) -> None:
        if left:
            raise left.pop()
        run(*arguments)

    return sometimes


JOBS = ["intake", "place", "remove", "mirror", "notify", "reconcile", "outages", "clock", "scrub", "checkpoints", "index", "source"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_fails_is_named_and_started_again_and_everything_is_archived(running, job):
    part = runner(running.parts, job)
    part.run = failing(part.run, KeyError("canary"), FAILURES)

    def meanwhile() -> None:
        until(lambda: any(f"thread {job} failed" in reason for reason in running.reasons()), 30)
        running.archive("s1")

    assert running.run(meanwhile) == 0
    counted = running.parts.metrics.registry.get_sample_value("storage_ledger_thread_failures_total", {"thread": job})
    assert counted == FAILURES


def test_a_web_server_that_fails_listens_on_the_same_port_again(running):
    def meanwhile() -> None:
        until(lambda: running.web._server is not None and running.web._server.started, 30)
        port = running.web.port
        running.web._server.should_exit = True  # as if it had ended by itself
        until(lambda: any("thread web failed" in reason for reason in running.reasons()), 30)
        running.archive("s1")
        assert running.web.port == port

    assert running.run(meanwhile) == 0


@pytest.mark.parametrize("job", ["intake", "index", "mirror"])
def test_a_ledger_that_cannot_be_used_ends_it_with_2(running, job):
    part = runner(running.parts, job)
    part.run = failing(part.run, LedgerUnusable("ledger-damaged", ""), 1)
    ended = threading.Event()

    def meanwhile() -> None:
        assert running.service._stop.wait(30)
        ended.set()

    assert running.run(meanwhile) == 2
    assert ended.is_set()


def test_a_job_that_never_works_keeps_nothing_from_ending(running):
    running.parts.scrub.run = failing(running.parts.scrub.run, ValueError(), 1_000_000)
    assert running.run(lambda: running.archive("s1")) == 2


def test_reasons_with_one_code_but_different_details_are_all_reported_and_the_steps_of_an_outage_joined(running):
    outages = running.parts.outages
    with running.parts.ledger.write() as tx:
        for step, code in (("place", "archive-full"), ("mirror", "archive-full"), ("tell", "status-service-away")):
            outages.begin(tx, step, Retryable(code), attempt=1, retry_at="")
    running.parts.archive.trouble = lambda: Reason("archive-full", "12,345 bytes free on the archive's volume")
    assert running.reasons() >= {
        "archive-full 12,345 bytes free on the archive's volume",
        "archive-full step mirror and place",
        "status-service-away step tell",
    }
    running.parts.index.close()
    running.parts.ledger.close()
    running.client.close()


def test_a_wal_that_a_reader_keeps_is_a_metric(running):
    wal = Path(f"{running.settings.ledger_file}-wal")
    sizes = []
    with closing(sqlite.connect(running.settings.ledger_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        for _ in range(2):
            with running.parts.ledger.write() as tx:
                tx.append(NewEntry(Kind.REJECTED, {"reason": "not-json", "raw": "x" * 100_000, "raw_bytes": 100_000, "source": "pubsub"}))
            sizes.append(wal.stat().st_size)
            found = re.search(rb"^storage_ledger_wal_bytes (\S+)$", running.service.render_metrics(), re.MULTILINE)
            assert found
            assert float(found[1]) == sizes[-1]
    assert sizes[1] > sizes[0] > 0
    running.parts.index.close()
    running.parts.ledger.close()
    running.client.close()


def test_a_volume_that_hangs_is_a_reason_and_no_wait(running):
    gate = threading.Event()
    running.parts.archive.trouble = lambda: gate.wait(60) and None
    assert any(reason.startswith("hangs the check of archive has not returned") for reason in running.reasons())
    assert b"storage_ledger_free_bytes" in running.service.render_metrics()
    gate.set()
    until(lambda: not any(reason.startswith("hangs") for reason in running.reasons()), 30)
    running.parts.index.close()
    running.parts.ledger.close()
    running.client.close()
