"""The whole way of events with the ledger in a real PostgreSQL server, which goes away and comes back."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
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


def test_moved_there_and_back_digest_for_digest(tmp_path: Path, valkey: Valkey, status_server: StatusServer, server: Postgres):
    stack = Stack(tmp_path, valkey, status_server.url)
    url = server.schema()
    stack.start()
    send(stack, 1, 2)
    until(has_archived(stack, status_server, 1, 2), 60, what="two studies")
    running = stack.command("copy-ledger", "--to", url)
    assert (running.returncode, "stop it" in running.stdout) == (1, True)
    send(stack, 3)
    until(has_archived(stack, status_server, 1, 2, 3), 60, what="the third")
    assert stack.stop() == 0
    before = rows(stack)
    moved = stack.command("copy-ledger", "--to", url, "--json")
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["entries"] == len(before)
    refused = stack.command("serve")
    assert (refused.returncode, "ledger-moved" in refused.stderr) == (2, True)

    stack.environment["LEDGER_URL"] = url
    stack.start()
    send(stack, 4)
    until(has_archived(stack, status_server, 1, 2, 3, 4), 60, what="the fourth")
    verified = stack.command("verify", "--json")
    assert (verified.returncode, [each["code"] for each in json.loads(verified.stdout)["findings"]]) == (0, []), verified.stdout
    assert stack.command("backup", str(tmp_path / "backups")).returncode == 0
    assert stack.stop() == 0
    assert rows(stack)[: len(before)] == before
    assert stack.command("verify").returncode == 0

    file = stack.ledger / "ledger.db"
    back = stack.command("copy-ledger", "--to", f"sqlite://{file}")
    assert back.returncode == 0, back.stderr
    assert "ledger-moved" in stack.command("serve").stderr
    del stack.environment["LEDGER_URL"]
    stack.start()
    send(stack, 5)
    until(has_archived(stack, status_server, 5), 60, what="the fifth")
    assert stack.stop() == 0
    assert stack.command("verify").returncode == 0

    for path in stack.ledger.glob("ledger.db*"):
        path.unlink()
    restored = stack.command("restore", "--from-backup", str(tmp_path / "backups"), "--with-mirror")
    assert restored.returncode == 0, restored.stderr
    stack.start()
    assert stack.stop() == 0


def rows(stack: Stack) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{stack.ledger / 'ledger.db'}?mode=ro", uri=True)) as ledger:
        return ledger.execute("SELECT * FROM entries ORDER BY position").fetchall()


def test_pages_on_another_host_read_a_copy(tmp_path: Path, valkey: Valkey, status_server: StatusServer, server: Postgres):
    stack = Stack(tmp_path, valkey, status_server.url, LEDGER_URL=server.schema())
    stack.start()
    send(stack, 1)
    until(has_archived(stack, status_server, 1), 60, what="a study")
    elsewhere = {**stack.environment, "LEDGER_PATH": str(tmp_path / "elsewhere")}
    follower = stack.warm.start(elsewhere, tmp_path / "follow.log", tmp_path, "storage-ledger", "follow")
    send(stack, 2)
    until(lambda: (tmp_path / "elsewhere/index.db").exists() and indexed(tmp_path / "elsewhere/index.db") == ["s1", "s2"], 60)
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(30) == 0
    assert stack.stop() == 0


def indexed(file: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as index:
        try:
            return [row[0] for row in index.execute("SELECT study_id FROM studies WHERE state = 'archived' ORDER BY study_id")]
        except sqlite3.OperationalError:
            return []


def test_second_service_is_kept_out_on_any_host_also_after_the_server_was_away(stack: Stack, server: Postgres, tmp_path: Path):
    stack.start()
    elsewhere = {**stack.environment, "LEDGER_PATH": str(tmp_path / "elsewhere"), "HTTP_PORT": "0"}

    def second() -> int:
        return stack.warm.start(elsewhere, tmp_path / "second.log", tmp_path, "storage-ledger", "serve").wait(60)

    assert second() == 11
    server.end(signal.SIGQUIT)
    server.start()
    until(lambda: locks(server) == 1, 60, what="the lock to be taken again")
    assert second() == 11
    assert "another `serve` uses this ledger" in (tmp_path / "second.log").read_text()
    assert stack.stop() == 0


def locks(server: Postgres) -> int:
    with server.connect() as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    assert row is not None
    return int(str(row[0]))


def test_service_that_was_cut_off_stops_once_another_has_begun(stack: Stack, server: Postgres, status_server: StatusServer):
    stack.start()
    send(stack, 1)
    until(has_archived(stack, status_server, 1), 60, what="a study")
    before = kinds(stack)
    with server.connect() as connection:  # as another `serve` does when it begins
        connection.execute(f"UPDATE {stack.environment['LEDGER_URL'].rpartition('%3D')[2]}.meta SET value = 'another' WHERE name = 'term'")
    send(stack, 2)
    assert stack.process is not None
    assert stack.process.wait(60) == 2
    assert "ledger-taken-over" in stack.log.read_text()
    assert kinds(stack) == before
    assert (stack.uploads / "s2.dcm").exists()
