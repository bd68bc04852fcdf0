"""The whole way of events with the ledger in a real PostgreSQL server, which goes away and comes back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import faults
from storage_ledger.ledger.mirror import reader
from storage_ledger.ledger.postgres import PostgresLedger
from tests.support.dicom import make_file
from tests.support.memory import in_memory
from tests.support.postgres import Postgres
from tests.support.stack import Stack
from tests.support.status_server import StatusServer
from tests.support.valkey import Valkey
from tests.support.waiting import until


@pytest.fixture
def server() -> Iterator[Postgres]:
    with in_memory() as folder:
        folder.chmod(0o755)
        made = Postgres(folder / "postgres")
        made.start()
        yield made
        made.end(signal.SIGQUIT)


@pytest.fixture(params=["0", "2"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey, status_server: StatusServer, server: Postgres) -> Iterator[Stack]:
    made = Stack(tmp_path, valkey, status_server.url, LEDGER_URL=server.schema(), WORKERS=request.param)
    yield made
    made.close()


def send(stack: Stack, *numbers: int) -> None:
    for number in numbers:
        make_file(stack.uploads / f"s{number}.dcm")
        stack.publish({"study_id": f"s{number}", "file_path": f"s{number}.dcm"})


def kinds(stack: Stack) -> list[str]:
    ledger = PostgresLedger(stack.environment["LEDGER_URL"])
    entries = ledger.read(0, 1000)
    ledger.close()
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    assert not any(faults(entry) for entry in entries)
    return [entry.kind for entry in entries]


def has_archived(stack: Stack, status_server: StatusServer, *numbers: int) -> Any:
    return lambda: all(status_server.status(f"s{number}") == "archived" for number in numbers) and stack.idle()


def test_studies_are_archived_across_kills_of_service_and_server(stack: Stack, status_server: StatusServer, server: Postgres):
    stack.start()
    assert not (stack.ledger / "ledger.db").exists()
    send(stack, 1, 2)
    until(has_archived(stack, status_server, 1, 2), 60, what="two studies")
    stack.kill()
    send(stack, 3)  # its message is lost
    stack.start()
    stack.publish({"study_id": "s3", "file_path": "s3.dcm"})
    until(has_archived(stack, status_server, 1, 2, 3), 60, what="the third")

    server.end(signal.SIGQUIT)
    until(lambda: stack.get("/readyz")[0] == 503, 60, what="not ready")
    assert "ledger-away" in stack.get("/readyz")[1]
    assert stack.get("/healthz")[0] == 200
    server.start()
    until(lambda: stack.get("/readyz")[0] == 200, 60, what="ready again")
    send(stack, 4)
    until(has_archived(stack, status_server, 1, 2, 3, 4), 60, what="the fourth")

    shown = json.loads(stack.command("show", "s4", "--json").stdout)
    assert shown["state"] == "archived"
    assert stack.stop() == 0
    found = kinds(stack)
    assert found.count("archived") == 4
    ledger = PostgresLedger(stack.environment["LEDGER_URL"])
    mirrored = list(reader.entries(stack.archive, ledger.ledger_id))
    assert mirrored == ledger.read(0, 1000)
    ledger.close()
    assert not list(stack.uploads.iterdir())
