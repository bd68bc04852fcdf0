"""kill -9 between reading, recording and acknowledging an entry: in the end every entry of the stream is in the ledger."""

from __future__ import annotations

import os
import random
import threading

from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.stack import Stack
from tests.support.valkey import Valkey
from tests.support.waiting import until

KILLS = int(os.environ.get("STORAGE_LEDGER_KILLS", "5"))


def test_kill_9_of_the_service_loses_no_entry_of_the_stream(tmp_path, valkey, status_server):
    """Kill only the service. Nothing is published twice: interrupted entries must be redelivered by the server."""
    rng = random.Random(5)
    stack = Stack(tmp_path, valkey, status_server.url, DESCRIBED_STREAM=valkey.channel())
    stream = stack.environment["DESCRIBED_STREAM"]
    files: dict[str, bytes] = {}
    cut_short = 0
    try:
        for round_ in range(KILLS):
            stack.start()
            messages = []
            for i in range(40):
                message, files[f"s{round_:03d}-{i:02d}"] = upload(stack, f"s{round_:03d}-{i:02d}", seed=round_ * 100 + i)
                messages.append(message)
            if round_ % 2:
                killer = threading.Timer(rng.random() * 0.25, stack.kill)
                killer.start()
                for message in messages:
                    stack.add(message)
                killer.join()
            else:  # right after an entry was added: on a fast machine all might be recorded before a timer ends
                last = rng.randrange(len(messages))
                for number, message in enumerate(messages):
                    stack.add(message)
                    if number == last:
                        stack.kill()
            cut_short += valkey.unacknowledged(stream)
            found = stack.check(settled=False)
            assert found["violations"] == [], f"after kill {round_}"
        assert cut_short > 0  # otherwise it did not die at the intended point
        stack.start()
        until(lambda: all(status_server.status(s) == "archived" for s in files), 120, what="all to be archived and told")
        until(stack.idle, 60)
        until(lambda: valkey.unacknowledged(stream) == 0, 20)
        assert_archived(stack, files)
        assert stack.stop() == 0
        found = stack.check()
        assert found["violations"] == []
        assert found["archived"] == sorted(files)
        assert found["counts"]["described"] >= len(files)
    finally:
        stack.close()


def test_kill_9_of_the_server_and_of_the_service_loses_no_entry_that_the_server_confirmed(tmp_path, status_server):
    rng = random.Random(6)
    (tmp_path / "valkey").mkdir()
    server = Valkey(tmp_path / "valkey", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    stack = Stack(tmp_path, server, status_server.url, DESCRIBED_STREAM="described")
    files: dict[str, bytes] = {}
    try:
        stack.start()
        for round_ in range(max(4, KILLS // 2)):
            for i in range(20):
                study_id = f"s{round_:03d}-{i:02d}"
                message, files[study_id] = upload(stack, study_id, seed=round_ * 100 + i)
                stack.add(message)
                if i == rng.randrange(20):
                    server.kill()
                    server.start()
            if round_ % 2:
                stack.kill()
                stack.start(ready=False)
            server.kill()
            server.start()
        until(lambda: all(status_server.status(s) == "archived" for s in files), 120, what="all to be archived and told")
        until(stack.idle, 60)
        until(lambda: server.unacknowledged("described") == 0, 30)
        assert_archived(stack, files)
        assert stack.stop() == 0
        assert stack.check()["violations"] == []
    finally:
        stack.close()
        server.stop()
