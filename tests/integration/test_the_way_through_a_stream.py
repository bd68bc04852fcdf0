"""The real service on a stream: one event from end to end, a ledger that cannot be written, a long queue at the start."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest

from storage_ledger.system.sqlite import sqlite
from tests.integration.test_the_way_of_one_event import assert_archived, bad_messages, upload
from tests.support.making import fill, small_volume
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url, DESCRIBED_STREAM=valkey.channel())
    yield made
    made.close()


def test_studies_come_through_a_stream_from_before_the_start_and_after(stack, valkey, status_server):
    stream = stack.environment["DESCRIBED_STREAM"]
    files: dict[str, bytes] = {}
    for i in range(10):
        message, files[f"before-{i}"] = upload(stack, f"before-{i}", seed=i)
        stack.add(message)
    stack.start()
    for i in range(10):
        message, files[f"after-{i}"] = upload(stack, f"after-{i}", seed=i)
        stack.add(message)
    for bad in bad_messages(random.Random(3), 16):
        stack.add(bad)
    with contextlib.closing(valkey.client()) as client:
        client.xadd(stream, {"study_id": "s", "file_path": "x.dcm"})
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60)
    until(stack.idle, 30)
    until(lambda: valkey.unacknowledged(stream) == 0, 30)
    assert_archived(stack, files)
    found = stack.check()
    assert found["violations"] == []
    assert (found["counts"]["described"], found["counts"]["archived"], found["counts"]["rejected"]) == (20, 20, 17)
    assert sources(stack) == {"stream"}
    assert stack.metric("storage_ledger_stream_pending") == 0
    assert stack.stop() == 0
    assert valkey.unacknowledged(stream) == 0
    # A quiet restart reads nothing again.
    stack.start()
    until(stack.idle, 30)
    assert stack.stop() == 0
    assert stack.check()["counts"]["described"] == 20


def sources(stack: Stack) -> set[str]:
    with contextlib.closing(sqlite.connect(f"file:{stack.ledger / 'ledger.db'}?mode=ro", uri=True)) as ledger:
        rows = ledger.execute("SELECT payload FROM entries WHERE kind IN ('described', 'rejected')").fetchall()
    return {json.loads(payload)["source"] for (payload,) in rows}


def test_the_channel_is_not_listened_to_when_a_stream_is_set(stack):
    stack.start()
    assert stack.publish(b"{}") == 0


def test_readyz_says_why_the_stream_cannot_be_read(stack, valkey):
    with contextlib.closing(valkey.client()) as client:
        client.set(stack.environment["DESCRIBED_STREAM"], "text")
    stack.start(ready=False)
    until(lambda: "redis-wrong-type" in stack.get("/readyz")[1], 30)
    assert stack.get("/readyz")[0] == 503
    with contextlib.closing(valkey.client()) as client:
        client.delete(stack.environment["DESCRIBED_STREAM"])
    until(lambda: stack.get("/readyz")[0] == 200, 30)


def test_as_long_as_the_ledger_is_full_nothing_is_acknowledged(tmp_path, valkey, status_server):
    with small_volume(tmp_path / "ledger", "64m") as folder:
        stack = Stack(tmp_path, valkey, status_server.url, DESCRIBED_STREAM=valkey.channel())
        stream = stack.environment["DESCRIBED_STREAM"]
        files: dict[str, bytes] = {}
        try:
            stack.start()
            fill(folder / "filler")
            for i in range(100):
                message, files[f"s-{i}"] = upload(stack, f"s-{i}", seed=i)
                stack.add(message)
            until(lambda: "ledger-full" in stack.get("/readyz")[1], 30)
            until(lambda: valkey.unacknowledged(stream) > 0, 30)
            waiting = valkey.unacknowledged(stream)
            recorded = stack.check(settled=False)["counts"].get("described", 0)
            assert recorded + waiting >= 100
            stack.kill()  # what it had read and not recorded is only in Redis now
            (folder / "filler").unlink()
            stack.start()
            until(lambda: all(status_server.status(s) == "archived" for s in files), 60)
            until(stack.idle, 30)
            until(lambda: valkey.unacknowledged(stream) == 0, 30)
            assert_archived(stack, files)
            assert stack.stop() == 0
            assert stack.check()["violations"] == []
        finally:
            stack.close()


def test_200_megabytes_that_wait_at_the_start_do_not_come_into_memory_at_once(stack, valkey):
    stream = stack.environment["DESCRIBED_STREAM"]
    with contextlib.closing(valkey.client()) as client:
        for _ in range(100):
            pipeline = client.pipeline(transaction=False)
            for _ in range(100):
                pipeline.xadd(stream, {"data": b"x" * 20_000})
            pipeline.execute()
    stack.start()
    until(lambda: stack.metric("storage_ledger_messages_received_total") == 10_000, 90)
    until(lambda: valkey.unacknowledged(stream) == 0, 30)
    peak_kb = int(
        next(row for row in Path(f"/proc/{stack.process.pid}/status").read_text().splitlines() if row.startswith("VmHWM")).split()[1]
    )
    assert peak_kb < 200_000
    assert stack.stop() == 0
    assert stack.check()["counts"]["rejected"] == 10_000
