"""kill -9 at random moments under traffic: nothing logged is lost, nothing doubled, no leftovers, all statuses told."""

from __future__ import annotations

import json
import os
import random
import threading

from tests.integration.test_the_way_of_one_event import assert_archived, bad_messages, upload
from tests.support.stack import Stack
from tests.support.waiting import until

KILLS = int(os.environ.get("STORAGE_LEDGER_KILLS", "12"))


def test_kill_9_under_traffic_loses_nothing_and_doubles_nothing(tmp_path, valkey, status_server):
    rng = random.Random(11)
    stack = Stack(tmp_path, valkey, status_server.url)
    files: dict[str, bytes] = {}
    messages: dict[str, bytes] = {}
    try:
        for round_ in range(KILLS):
            stack.start()
            for i in range(12):
                study_id = f"s{round_:03d}-{i:02d}"
                message, files[study_id] = upload(stack, study_id, seed=round_ * 100 + i)
                messages[study_id] = json.dumps(message).encode()
            batch = [messages[s] for s in messages if s.startswith(f"s{round_:03d}")] * 2 + bad_messages(rng, 4)
            rng.shuffle(batch)
            killer = threading.Timer(rng.random() * 0.35, stack.kill)
            killer.start()
            for message in batch:
                stack.publish(message)
            killer.join()
            found = stack.check(settled=False)
            assert found["violations"] == [], f"after kill {round_}"
        stack.start()
        until(stack.idle, 60, what="recovery to finish")
        # What no ledger ever heard of was never promised; its upload is still there, and is described again.
        for study_id, message in messages.items():
            if (stack.uploads / f"{study_id}.dcm").exists():
                stack.publish(message)
        until(lambda: all(status_server.status(s) == "archived" for s in files), 90, what="all to be archived and told")
        until(stack.idle, 60)
        assert_archived(stack, files)
        found = stack.check()
        assert found["violations"] == []
        # When the read-backs are over, a quiet restart appends nothing.
        until(lambda: stack.metric('storage_ledger_pending{stage="confirm"}') == 0, 60, what="the read-backs to end")
        assert stack.stop() == 0
        before = stack.check()["counts"]
        stack.start()
        until(stack.idle, 30)
        assert stack.stop() == 0
        assert stack.check()["counts"] == before
    finally:
        stack.close()
