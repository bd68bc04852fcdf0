"""The real service under strace, on the worst disk that POSIX allows: every effect comes after what it relies on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import threading

import pytest

from storage_ledger.settings import Settings
from tests.recovery.order import STRACE, Disk
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def strace():
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")


def test_every_effect_waits_for_the_fsync_that_it_relies_on(tmp_path, valkey, status_server):
    rng = random.Random(17)
    stack = Stack(tmp_path, valkey, status_server.url)
    disk = Disk(stack.uploads, stack.archive, stack.ledger)

    def put(name: str, data: bytes) -> dict:
        path = stack.uploads / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        disk.uploaded(name)
        return {"study_id": name.rpartition("/")[2].partition(".")[0], "file_path": name, "metadata": {"n": name}}

    log = tmp_path / "strace"

    def live() -> None:
        stack.start(under=[*STRACE, str(log)])

    def died() -> None:
        stack.process.wait(60)
        disk.feed(log)
        assert disk.violations == []

    try:
        # New studies, a folder below uploads, redeliveries of pending messages, the same name with other bytes, an invalid message.
        messages = [put(f"s{i}.dcm", rng.randbytes(rng.choice((10, 5_000, 1_500_000)))) for i in range(8)]
        messages += [put("below/b0.dcm", b"b0"), put("one/twice.dcm", b"first"), put("two/twice.dcm", b"second")]
        messages.append(put("last.dcm", b"last"))
        live()
        stack.publish(messages[0])  # on its own: it is synced by itself, the others together
        until(lambda: status_server.status(messages[0]["study_id"]) == "archived", 60)
        for message in [*messages[1:-1], *messages[:3], {"study_id": "wrong", "file_path": "../x"}]:
            stack.publish(message)
        told = [message["study_id"] for message in messages[:-1]]
        until(lambda: all(status_server.status(s) == "archived" for s in told) and status_server.status("wrong") == "failed", 60)
        stack.publish(messages[-1])  # on its own: its metadata.json is synced by what comes after
        until(lambda: status_server.status("last") == "archived", 60)
        until(stack.idle, 30)
        assert stack.stop() == 0
        died()
        # Redeliveries: with the upload; without; without, and the archive's file was put back from a backup, unsynced;
        # with the upload, and the archive's file is damaged. And new studies, until the process is killed.
        again = [put("s0.dcm", (stack.archive / "s0" / "s0.dcm").read_bytes()), messages[1], messages[2]]
        archived, damaged = (stack.archive / name / f"{name}.dcm" for name in ("s2", "s3"))
        again.append(put("s3.dcm", damaged.read_bytes()))
        disk.outside(archived, described=3)
        disk.outside(damaged, described=4)
        before = stack.check()["counts"]["archived"]
        later = [put(f"t{i}.dcm", rng.randbytes(5_000)) for i in range(20)]
        live()
        for number, message in enumerate(again, 1):  # each on its own, and after the start: both may sync the whole file system
            if number == 3:
                archived.write_bytes(archived.read_bytes())
                damaged.write_bytes(bytes(damaged.stat().st_size))  # of the same length
            stack.publish(message)
            until(lambda: stack.check(settled=False)["counts"]["archived"] == before + number, 30)  # noqa: B023 - called at once
        pid = json.loads((stack.ledger / "serve.lock").read_text())["pid"]
        killer = threading.Timer(rng.random() * 0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        for message in later:
            stack.publish(message)
        killer.join()
        died()
        live()
        for message in later:
            stack.publish(message)
        until(lambda: stack.metric("storage_ledger_messages_received_total") == len(later), 60)
        until(lambda: all(status_server.status(m["study_id"]) == "archived" for m in later), 60)
        until(stack.idle, 30)
        assert stack.stop() == 0
        died()
    finally:
        stack.close()
    # The model saw real work, not an empty log.
    found = stack.check()
    assert found["violations"] == []
    assert {kind: disk.saw[kind] for kind in found["counts"]} == found["counts"]
    assert disk.saw["upload-removed"] == len(messages) + 2 + len(later)
    assert disk.saw["link"] >= len(messages) + 1 + len(later)
    assert disk.saw["told"] >= found["counts"]["status-sent"]
    assert disk.saw["syncfs"] >= 2 + 2, "metadata.json at each stop, and twice for many studies"
    assert disk.saw["copies-together"] >= 1, "the copies of several studies, before they are linked"


def test_a_message_of_a_stream_is_acknowledged_after_the_commit_of_its_entry(tmp_path, valkey, status_server):
    if "described_stream" not in Settings.model_fields:
        pytest.skip("this version has no stream as a source: its acknowledgements are not looked at")
    stream = valkey.channel()
    stack = Stack(tmp_path, valkey, status_server.url, DESCRIBED_STREAM=stream)
    disk = Disk(stack.uploads, stack.archive, stack.ledger)
    log = tmp_path / "strace"
    try:
        for i in range(12):
            (stack.uploads / f"s{i}.dcm").write_bytes(b"bytes")
            disk.uploaded(f"s{i}.dcm")
        stack.start(under=[*STRACE, str(log)])
        with contextlib.closing(valkey.client()) as client:
            for i in range(12):
                client.xadd(stream, {"data": json.dumps({"study_id": f"s{i}", "file_path": f"s{i}.dcm"})})
            client.xadd(stream, {"data": b"no event"})
            until(lambda: all(status_server.status(f"s{i}") == "archived" for i in range(12)), 60)
            until(lambda: client.xpending(stream, "storage-ledger")["pending"] == 0, 30)
        assert stack.stop() == 0
    finally:
        stack.close()
    disk.feed(log)
    assert disk.violations == []
    assert disk.saw["acknowledged"] == disk.saw["described"] + disk.saw["rejected"] == 13
