"""The real service keeps running, archiving and sending statuses without its disposable parts, and answers even if a volume hangs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from storage_ledger.index.schema import TABLES
from storage_ledger.system.sqlite import sqlite
from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.stack import Stack
from tests.support.waiting import until

ANSWER_WITHIN_S = 2.0


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url)
    yield made
    made.close()


def archive(stack: Stack, status_server, *study_ids: str) -> None:
    files = {}
    for number, study_id in enumerate(study_ids):
        message, files[study_id] = upload(stack, study_id, seed=number)
        stack.publish(message)
    until(lambda: all(status_server.status(study_id) == "archived" for study_id in study_ids), 30)
    until(lambda: not list(stack.uploads.iterdir()), 30)
    assert_archived(stack, files)


def ready(stack: Stack) -> dict:
    """Return the answer of /readyz and how long it took."""
    began = time.monotonic()
    answer = json.loads(stack.get("/readyz")[1])
    return {**answer, "took_s": time.monotonic() - began}


def codes(stack: Stack) -> set[str]:
    return {reason["code"] for reason in json.loads(stack.get("/readyz")[1]).get("reasons", [])}


def index_sql(stack: Stack, statement: str) -> None:
    with closing(sqlite.connect(stack.ledger / "index.db", timeout=30)) as connection:
        connection.executescript(statement)


def test_each_table_of_the_index_may_be_lost_while_the_service_runs_and_before_it_starts(stack, status_server):
    stack.start()
    archive(stack, status_server, "before")
    until(stack.idle, 30)
    for number, table in enumerate(TABLES):
        index_sql(stack, f"DROP TABLE {table}")
        archive(stack, status_server, f"while-{number}")
        until(stack.idle, 30, what=f"the index to be there again without {table}")
        assert stack.get("/readyz")[0] == 200
    for number, table in enumerate(TABLES):
        assert stack.stop() == 0
        index_sql(stack, f"DROP TABLE {table}")
        stack.start()
        archive(stack, status_server, f"after-{number}")
        until(stack.idle, 30, what=f"the index to be there again without {table}")
    assert "thread.died" not in stack.log.read_text()
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


@pytest.mark.parametrize("what", ["fifo", "folder", "garbage", "lock"])
def test_what_lies_in_the_place_of_the_index_keeps_nobody_from_starting_and_commands_from_nothing(stack, status_server, what):
    path = stack.ledger / ("index.lock" if what == "lock" else "index.db")
    if what == "fifo":
        os.mkfifo(path)
    elif what == "garbage":
        path.write_bytes(b"\xff" * 50_000)
    else:
        path.mkdir()
        (path / "mine").write_text("kept")
    assert stack.command("migrate").returncode == 0
    assert "index-missing" not in stack.command("status").stdout, "an empty ledger needs no index"
    stack.start(ready=what != "lock")
    until(lambda: stack.get("/healthz")[0] == 200, 30)
    until(lambda: "redis-not-subscribed" not in codes(stack), 30)  # nobody receives what is published before that
    archive(stack, status_server, "s1")
    if what == "lock":
        until(lambda: codes(stack) == {"index-failing"}, 60)
        assert stack.metric("storage_ledger_index_failing") == 1
        done = stack.command("status")
        assert (done.returncode, "index-failing" in done.stdout) == (1, True)
        (path / "mine").unlink()
        path.rmdir()
    until(stack.idle, 90)
    until(lambda: stack.get("/readyz")[0] == 200, 30)
    assert stack.metric("storage_ledger_index_failing") == 0
    if what == "folder":
        assert (stack.ledger / "index.db.set-aside-1" / "mine").read_text() == "kept"
    assert stack.command("status").returncode == 0
    assert stack.command("show", "s1").returncode == 0
    assert stack.stop() == 0


def test_who_asks_whether_it_is_ready_gets_an_answer_while_another_process_writes_for_long(stack, status_server):
    stack.start()
    with closing(sqlite3.connect(stack.ledger / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        message, _ = upload(stack, "s1")
        stack.publish(message)
        for _ in range(3):
            said = ready(stack)
            assert {reason["code"] for reason in said["reasons"]} >= {"ledger-busy"}
            assert said["took_s"] < ANSWER_WITHIN_S
        assert stack.get("/metrics")[0] == 200
        other.execute("ROLLBACK")
    until(lambda: stack.get("/readyz")[0] == 200, 60)
    until(lambda: status_server.status("s1") == "archived", 30)
    assert stack.stop() == 0


def test_a_clock_that_was_ahead_is_reported_until_acknowledged(stack, status_server):
    assert stack.command("migrate").returncode == 0
    refused = stack.command("acknowledge", "clock-ahead", "--by", "Ada", "--reason", "nothing is wrong")
    assert (refused.returncode, "not ahead" in refused.stdout) == (1, True)
    stack.start()
    archive(stack, status_server, "s1")
    assert stack.metric("storage_ledger_clock_ahead_seconds") == 0
    append_in_2100(stack)
    assert codes(stack) == {"clock-ahead"}
    assert stack.metric("storage_ledger_clock_ahead_seconds") > 86_400 * 365
    done = stack.command("status", "--json")
    said = [item for item in json.loads(done.stdout)["attention"] if item["code"] == "clock-ahead"]
    assert (done.returncode, len(said)) == (1, 1)
    assert "2100-01-01" in said[0]["detail"]
    assert stack.command("acknowledge", "clock-ahead", "--by", "YOUR NAME", "--reason", "x").returncode == 2
    assert stack.command("acknowledge", "flat-tyre", "--by", "Ada", "--reason", "x").returncode == 2
    assert stack.command("acknowledge", "clock-ahead", "--by", "Ada", "--reason", "BIOS battery").returncode == 0
    assert stack.command("acknowledge", "clock-ahead", "--by", "Ada", "--reason", "again").returncode == 1
    archive(stack, status_server, "s2")
    until(stack.idle, 30)
    assert stack.get("/readyz")[0] == 200
    assert stack.command("status").returncode == 0
    assert stack.command("verify").returncode == 0
    assert stack.command("replay", "--index").returncode == 0
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def append_in_2100(stack: Stack) -> None:
    """Append like a service whose clock is wrong for a moment."""
    code = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.ledger.sqlite import SqliteLedger
ledger = SqliteLedger(Path(sys.argv[1]), clock=lambda: datetime(2100, 1, 1, tzinfo=UTC))
with ledger.write() as tx:
    tx.append(NewEntry(Kind.FAILED, {"step": "place", "code": "archive-full", "detail": "", "errno": 28, "attempt": 1, "retry_at": ""}))
    tx.append(NewEntry(Kind.RECOVERED, {"step": "place", "code": "archive-full"}, cause=tx.appended[-1].position))
ledger.close()
"""
    subprocess.run([sys.executable, "-c", code, str(stack.ledger / "ledger.db")], check=True, timeout=60)


def test_several_who_ask_at_once_all_get_an_answer_that_names_what_is_wrong(stack):
    stack.start()
    stack.uploads.rename(stack.root / "away")
    answers: list[str] = []

    def ask() -> None:
        assert stack.get("/metrics")[0] == 200
        answers.append(stack.get("/readyz")[1])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 8
    assert all('"uploads-missing"' in answer for answer in answers)
    (stack.root / "away").rename(stack.uploads)
    until(lambda: stack.get("/readyz")[0] == 200, 30)
    assert stack.stop() == 0
