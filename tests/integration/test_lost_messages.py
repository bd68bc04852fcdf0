"""The real service and the real command recover messages that pub/sub lost."""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from contextlib import closing

import pytest

from storage_ledger.system.sqlite import sqlite
from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.stack import Stack
from tests.support.status_server import Fault
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    """A service that reconciles at the start and when it subscribes; a file is old after a second."""
    made = Stack(tmp_path, valkey, status_server.url, RECONCILE_SECONDS=3600, RECONCILE_GRACE_SECONDS=1)
    yield made
    made.close()


def lose(stack: Stack, status_server, study_id: str, *, seed: int = 0) -> bytes:
    """Leave a file whose message nobody received."""
    message, data = upload(stack, study_id, seed=seed)
    status_server.late_described(study_id, message["metadata"])
    return data


def sources(stack: Stack) -> Counter:
    """Return the sources of the `described` entries."""
    with closing(sqlite.connect(f"file:{stack.ledger / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return Counter(row[0] for row in connection.execute("SELECT payload ->> '$.source' FROM entries WHERE kind = 'described'"))


def settled(stack: Stack) -> bool:
    return stack.idle() and not any(path.is_file() for path in stack.uploads.rglob("*"))


def test_messages_published_while_the_service_is_down_are_recovered_at_startup(stack, status_server):
    stack.start()
    first, first_data = upload(stack, "before")
    stack.publish(first)
    until(lambda: status_server.status("before") == "archived" and settled(stack), 30)
    assert stack.stop() == 0
    files = {"before": first_data} | {f"lost-{i}": lose(stack, status_server, f"lost-{i}", seed=i) for i in range(30)}
    assert stack.publish({"study_id": "lost-0", "file_path": "lost-0.dcm"}) == 0  # nobody received it
    (stack.uploads / "before.dcm").write_bytes(first_data)  # a leftover
    stack.start()
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
    until(lambda: settled(stack), 30)
    assert_archived(stack, files)
    assert sources(stack) == {"pubsub": 1, "reconcile": 30}
    assert stack.metric('storage_ledger_files_reconciled_total{outcome="described"}') == 30
    assert stack.metric('storage_ledger_files_reconciled_total{outcome="leftover"}') == 1
    found = stack.check()
    assert found["violations"] == []
    assert found["counts"]["archived"] == 31
    metadata = json.loads((stack.archive / "lost-3" / "metadata.json").read_text())
    assert metadata["patient_info"]["patient_id"] == "P3"
    done = stack.command("reconcile")
    assert (done.returncode, "Unexplained   0 files" in done.stdout) == (0, True), done.stderr


def test_messages_published_while_redis_is_cut_off_are_recovered_after_reconnection(stack, valkey, status_server):
    stack.start()
    until(lambda: stack.metric('storage_ledger_sweeps_total{outcome="complete"}') >= 2, 30)
    valkey.kill()
    until(lambda: stack.get("/readyz")[0] == 503, 30)
    files = {f"lost-{i}": lose(stack, status_server, f"lost-{i}", seed=i) for i in range(10)}
    valkey.start()
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
    until(lambda: settled(stack), 30)
    assert_archived(stack, files)
    assert sources(stack) == {"reconcile": 10}
    assert stack.check()["violations"] == []


def test_what_cannot_be_explained_is_listed_counted_and_untouched(stack, status_server, tmp_path):
    for study_id, status in {"validating": "validating", "failed": "failed", "link": "described", "fifo": "described"}.items():
        status_server.statuses[study_id] = {"status": status, "timestamp": "", "details": {"patient_info": {}}}
    (tmp_path / "outside.dcm").write_bytes(b"secret")
    strange = os.fsdecode(b"\xff\n\x1b[31m.dcm")
    long = "x" * 251 + ".dcm"
    for name in ("validating.dcm", "failed.dcm", "nobody.dcm", "two\nlines.dcm", strange, long):
        (stack.uploads / name).write_bytes(b"x")
    (stack.uploads / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    os.mkfifo(stack.uploads / "fifo.dcm")
    before = {path.name: path.lstat() for path in stack.uploads.iterdir()}
    stack.start()
    until(lambda: stack.metric("storage_ledger_unexplained_files") == 8, 30, what="all to be counted")
    done = stack.command("reconcile", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert {(file["path"], file["code"], file["status"]) for file in report["files"]} == {
        ("validating.dcm", "not-described", "validating"),
        ("failed.dcm", "not-described", "failed"),
        ("nobody.dcm", "no-status", None),
        ("two\nlines.dcm", "unsafe-study-id", None),
        ("\\xff\n\x1b[31m.dcm", "unsafe-path", None),
        (long, "unsafe-study-id", None),
        ("link.dcm", "upload-is-link", None),
        ("fifo.dcm", "upload-is-fifo", None),
    }
    assert {file["bytes"] for file in report["files"] if file["path"] == "failed.dcm"} == {1}
    shown = stack.command("reconcile")
    assert shown.returncode == 1
    assert "\x1b" not in shown.stdout
    assert {path.name: path.lstat() for path in stack.uploads.iterdir()} == before
    assert sources(stack) == {}
    status = stack.command("status")
    assert "8 files unexplained: `storage-ledger reconcile` lists them" in status.stdout
    assert (status.returncode, "All is well." in status.stdout) == (0, True), "perhaps the pipeline has not finished with them"
    assert stack.stop() == 0
    assert json.loads(stack.command("status", "--json").stdout)["unexplained"] is None, "nobody says so"
    log = stack.log.read_text()
    assert not [name for name in ("validating.dcm", "nobody", "fifo", "xxx") if name in log]


def test_a_file_that_is_still_written_is_left_alone_though_its_time_is_old(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, RECONCILE_SECONDS=0.2, RECONCILE_GRACE_SECONDS=1)
    path = stack.uploads / "slow.dcm"
    status_server.late_described("slow", {"patient_info": {}})
    ended = threading.Event()
    path.write_bytes(b"begin ")
    os.utime(path, (0, 0))

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not ended.wait(0.02):
                file.write(b"more ")
                os.utime(path, (0, 0))
            file.write(b"end")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        stack.start()
        until(lambda: stack.metric('storage_ledger_sweeps_total{outcome="complete"}') >= 2, 40)
        assert sources(stack) == {}
        ended.set()
        writer.join()
        until(lambda: status_server.status("slow") == "archived", 40)
        data = (stack.archive / "slow" / "slow.dcm").read_bytes()
        assert (data[:6], data[-3:]) == (b"begin ", b"end")
        until(lambda: settled(stack), 20)
        assert stack.check()["violations"] == []
    finally:
        ended.set()
        writer.join()
        stack.close()


def test_many_commands_beside_the_service_make_up_for_each_message_once(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, RECONCILE_SECONDS=0.05, RECONCILE_GRACE_SECONDS=0)
    try:
        stack.start()
        files = {}
        for round_ in range(3):
            files |= {f"r{round_}-{i}": lose(stack, status_server, f"r{round_}-{i}", seed=i) for i in range(15)}
            said = stack.root / "said"
            commands = [stack.warm.start(stack.environment, said, stack.root, "storage-ledger", "reconcile", "--json") for _ in range(3)]
            for command in commands:  # files archived during the pass are explained, too
                assert command.wait(60) == 0, said.read_text()
        until(lambda: all(status_server.status(s) == "archived" for s in files), 60)
        until(lambda: settled(stack), 30)
        assert_archived(stack, files)
        assert sources(stack) == {"reconcile": 45}
        found = stack.check()
        assert found["violations"] == []
        assert found["counts"]["archived"] == 45
    finally:
        stack.close()


def test_the_command_alone_hands_over_what_the_service_does_later(stack, status_server):
    assert stack.command("reconcile").returncode == 2  # there is no ledger yet
    assert stack.command("migrate").returncode == 0
    data = lose(stack, status_server, "lost")
    os.utime(stack.uploads / "lost.dcm", (0, 0))
    done = stack.command("reconcile", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["described"], report["files"]) == (0, 1, [])
    assert (stack.uploads / "lost.dcm").read_bytes() == data
    stack.environment["RECONCILE_SECONDS"] = "0"
    stack.start()
    until(lambda: status_server.status("lost") == "archived" and settled(stack), 30)
    assert sources(stack) == {"reconcile": 1}
    assert stack.metric('storage_ledger_sweeps_total{outcome="complete"}') == 0  # 0 seconds: none by itself
    lose(stack, status_server, "other")
    assert stack.stop() == 0
    status_server.always = Fault(code=500)
    os.utime(stack.uploads / "other.dcm", (0, 0))
    away = stack.command("reconcile")
    assert (away.returncode, "status-service-away" in away.stderr) == (2, True)
    (stack.uploads / "other.dcm").unlink()
    stack.uploads.rmdir()
    missing = stack.command("reconcile")
    assert (missing.returncode, "uploads-missing" in missing.stderr) == (2, True)


def test_kill_9_among_nothing_but_lost_messages_loses_and_doubles_nothing(tmp_path, valkey, status_server):
    rng = random.Random(5)
    stack = Stack(tmp_path, valkey, status_server.url, RECONCILE_SECONDS=0.1, RECONCILE_GRACE_SECONDS=0)
    files: dict[str, bytes] = {}
    try:
        for round_ in range(4):
            files |= {f"k{round_}-{i}": lose(stack, status_server, f"k{round_}-{i}", seed=i) for i in range(20)}
            stack.start()
            killer = threading.Timer(1.5 + rng.random(), stack.kill)  # the first pass looks twice, two seconds apart
            killer.start()
            killer.join()
            assert stack.check(settled=False)["violations"] == []
        stack.start()
        until(lambda: all(status_server.status(s) == "archived" for s in files), 60)
        until(lambda: settled(stack), 30)
        assert_archived(stack, files)
        assert stack.check()["violations"] == []
    finally:
        stack.close()
