"""Valkey is killed and restarted, connections are cut, a slow subscriber is dropped: nothing recorded is lost, the rest is redelivered."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time

import pytest
import redis

from storage_ledger.settings import Settings
from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.recovery.invariants import Checker
from tests.support.figures import note
from tests.support.stack import Stack
from tests.support.valkey import Valkey
from tests.support.waiting import until

FAULTS = int(os.environ.get("STORAGE_LEDGER_REDIS", "5"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "13"))
GROUP = "storage-ledger"
FIGURES = {"points": 0, "of": 2 * FAULTS, "studies": 0, "seconds": 0.0, "seed": SEED, "violations": 0}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("through", ["pubsub", "stream"])
def test_whatever_redis_does_every_described_study_is_archived_once(through, tmp_path, status_server, warm):
    if through == "stream" and "described_stream" not in Settings.model_fields:
        pytest.skip("this version has no stream as a source: its faults are not produced")
    # It keeps every stream entry that it has acknowledged; a subscriber 4 MB behind is dropped.
    keep = ["--appendonly", "yes", "--appendfsync", "always"] if through == "stream" else []
    (tmp_path / "valkey").mkdir()
    valkey = Valkey(tmp_path / "valkey", *keep, "--client-output-buffer-limit", "pubsub", "4mb", "2mb", "5")
    valkey.start()
    settings = {"DESCRIBED_STREAM": "described-stream"} if through == "stream" else {}
    stack = Stack(tmp_path, valkey, status_server.url, warm=warm, **settings)
    began = time.monotonic()
    trial = Trial(stack, valkey, status_server, through, random.Random(f"{SEED} {through}"))
    try:
        stack.start()
        for number in range(FAULTS):
            trial.one(number)
            FIGURES["points"] += 1
            FIGURES["studies"] = FIGURES["studies"] + trial.described
            note("redis", **{**FIGURES, "seconds": round(FIGURES["seconds"] + time.monotonic() - began, 1)})
        until(stack.idle, 60)
        assert_archived(stack, trial.files)
        trial.nothing_is_violated(settled=True, when="at the end")
        if through == "stream":
            until(lambda: trial.unacknowledged() == 0, 30, what="everything to be acknowledged")
        assert stack.stop() == 0
    finally:
        stack.close()
        valkey.stop()
    FIGURES["seconds"] = round(FIGURES["seconds"] + time.monotonic() - began, 1)
    note("redis", **FIGURES)


class Trial:
    """One service, through one fault after another."""

    def __init__(self, stack: Stack, valkey: Valkey, status_server, through: str, rng: random.Random) -> None:
        self.stack, self.valkey, self.status_server, self.through, self.rng = stack, valkey, status_server, through, rng
        self.files: dict[str, bytes] = {}
        self.described = 0
        ways = [self.valkey_killed, self.valkey_restarted, self.connections_cut]
        self.ways = [*ways, self.subscriber_overrun] if through == "pubsub" else [*ways, self.service_killed]

    def one(self, number: int) -> None:
        way = self.ways[number % len(self.ways)]
        mine: dict[str, dict] = {}
        for i in range(6):
            study_id = f"s{number:03d}-{i}"
            mine[study_id], self.files[study_id] = upload(self.stack, study_id, seed=number * 10 + i)
        self.described = len(mine)
        twice = [*mine.values(), *mine.values()]
        self.rng.shuffle(twice)
        at = self.rng.randrange(len(twice))
        for message in twice[:at]:
            self.send(message)
        after = threading.Thread(target=lambda: [self.send(message) for message in twice[at:]])
        after.start()
        way(list(mine.values()))
        after.join()
        when = f"after {way.__name__}, fault {number}, seed {SEED}"
        until(lambda: self.stack.metric("storage_ledger_source_subscribed") == 1, 60, what=f"the source {when}")
        self.nothing_is_violated(settled=False, when=when)
        if self.through == "pubsub":
            self.made_up_for(mine)
        until(lambda: all(self.status_server.status(s) == "archived" for s in mine), 60, what=f"all to be archived {when}")

    def made_up_for(self, mine: dict[str, dict]) -> None:
        # Messages that pub/sub lost are published again here, since their files are still in uploads.
        until(self.stack.idle, 60)
        for study_id, message in mine.items():
            if (self.stack.uploads / f"{study_id}.dcm").exists():
                assert self.stack.publish(message) == 1

    # -- the faults

    def valkey_killed(self, _: list[dict]) -> None:
        lost = self.lost()
        self.valkey.kill()
        if self.through == "pubsub" or self.rng.random() < 0.5:
            until(lambda: self.lost() > lost, 30, what="the loss to be noticed")
        self.valkey.start()
        until(lambda: self.lost() > lost, 30, what="the loss to be noticed")

    def valkey_restarted(self, _: list[dict]) -> None:
        lost = self.lost()
        self.valkey.stop()
        self.valkey.start()
        until(lambda: self.lost() > lost, 30, what="the loss to be noticed")

    def connections_cut(self, _: list[dict]) -> None:
        lost = self.lost()
        with contextlib.closing(self.valkey.client()) as client:
            kind = "pubsub" if self.through == "pubsub" else "normal"
            assert client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes") >= 1
        until(lambda: self.lost() > lost, 30, what="the loss to be noticed")

    def subscriber_overrun(self, messages: list[dict]) -> None:
        """Stop the service and publish more than the server buffers for it."""
        lost = self.lost()
        os.kill(self.stack.process.pid, signal.SIGSTOP)
        try:
            with contextlib.closing(self.valkey.client()) as client:
                large = [json.dumps({**message, "pad": "x" * 900_000}).encode() for message in messages]
                for i in range(100):
                    if client.publish(self.stack.channel, large[i % len(large)]) == 0:
                        break
                else:
                    raise AssertionError("the server never dropped the subscriber")
                assert client.info("stats")["client_output_buffer_limit_disconnections"] >= 1
        finally:
            os.kill(self.stack.process.pid, signal.SIGCONT)
        until(lambda: self.lost() > lost, 30, what="the loss to be noticed")

    def service_killed(self, _: list[dict]) -> None:
        self.stack.kill()
        self.stack.start()

    # -- around them

    def send(self, message: dict) -> None:
        data = json.dumps(message).encode()
        if self.through == "pubsub":
            with contextlib.suppress(redis.RedisError):  # it was not connected: pub/sub loses these
                self.stack.publish(data)
            return

        def added() -> bool:
            with contextlib.suppress(redis.RedisError), contextlib.closing(self.valkey.client()) as client:
                client.xadd("described-stream", {"data": data})
                return True
            return False

        until(added, 30, what="the stream to take it")

    def lost(self) -> float:
        return self.stack.metric("storage_ledger_source_reconnects_total")

    def unacknowledged(self) -> int:
        with contextlib.closing(self.valkey.client()) as client:
            group = client.xinfo_groups("described-stream")[0]
            return int(group["pending"]) + int(group["lag"] or 0)

    def nothing_is_violated(self, *, settled: bool, when: str) -> None:
        # The service is running during the check: entries and work queue are one snapshot, and files come before their entries.
        stack = self.stack
        # The mirror advances beyond that snapshot, so it is checked only at the end.
        found = Checker(stack.uploads, stack.archive, stack.ledger, settled, mirror=settled).run()
        FIGURES["violations"] += len(found["violations"])
        assert found["violations"] == [], when
