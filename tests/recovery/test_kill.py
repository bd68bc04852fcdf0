"""kill -9 at random moments under traffic: nothing recorded is lost or duplicated, no leftovers, all statuses sent."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.integration.test_the_way_of_one_event import assert_archived, bad_messages, upload
from tests.recovery.invariants import Checker
from tests.support.figures import note
from tests.support.stack import Stack
from tests.support.waiting import until

KILLS = int(os.environ.get("STORAGE_LEDGER_KILLS", "8"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "11"))
KILLS_OF_A_LEDGER = min(20, -(-KILLS // 2))  # then a new one, to keep the check after each kill short
WORKERS = (0, 2)  # in turns
APPENDER = str(Path(__file__).with_name("appender.py"))


@pytest.mark.timeout(7200)
def test_kill_9_under_traffic_loses_nothing_and_doubles_nothing(tmp_path, valkey, status_server, warm):
    rng = random.Random(SEED)
    began = time.monotonic()
    figures = {"points": 0, "of": KILLS, "studies": 0, "seconds": 0.0, "seed": SEED, "violations": 0}
    for number, first in enumerate(range(0, KILLS, KILLS_OF_A_LEDGER)):
        root = tmp_path / str(number)
        root.mkdir()
        stack = Stack(root, valkey, status_server.url, warm=warm, STATUS_CONFIRM_SECONDS=0.05, WORKERS=WORKERS[number % 2])
        status_server.forget()
        life = Life(stack, status_server, rng, number)
        try:
            for _ in range(min(KILLS_OF_A_LEDGER, KILLS - first)):
                found = life.until_a_kill()
                figures["points"] += 1
                figures["violations"] += len(found["violations"])
                figures["studies"] += life.described
                figures["seconds"] = round(time.monotonic() - began, 1)
                note("kills", **figures)
                assert found["violations"] == [], f"after kill {figures['points']}, seed {SEED}"
            life.to_its_end()
        finally:
            life.end_appender()
            stack.close()
    note("kills", **{**figures, "seconds": round(time.monotonic() - began, 1)})


class Life:
    """The life of one ledger, from kill to kill. A second process that appends to it is killed, too."""

    def __init__(self, stack: Stack, status_server, rng: random.Random, number: int) -> None:
        self.stack, self.status_server, self.rng, self.number = stack, status_server, rng, number
        self.files: dict[str, bytes] = {}
        self.messages: dict[str, bytes] = {}
        self.appender = None
        self.kills = 0
        self.described = 0

    def until_a_kill(self) -> dict:
        stack, rng = self.stack, self.rng
        self.kills += 1
        self.described = 0
        if self.kills % 4 == 0:  # again, while it recovers
            stack.start(ready=False)
            self.append()
            self.kill_within(rng.uniform(0.1, 0.4))
        else:
            stack.start()
            mine = [f"s{self.number}-{self.kills:03d}-{i:02d}" for i in range(10)]
            for i, study_id in enumerate(mine):
                message, self.files[study_id] = upload(stack, study_id, seed=self.kills * 100 + i)
                self.messages[study_id] = json.dumps(message).encode()
            self.described = len(mine)
            batch = [self.messages[s] for s in mine] * 2 + bad_messages(rng, 4) + rng.choices(list(self.messages.values()), k=3)
            rng.shuffle(batch)
            self.append()
            killer = threading.Thread(target=self.kill_within, args=(rng.random() * 0.35,))
            killer.start()
            for message in batch:
                stack.publish(message)
            killer.join()
        self.end_appender()
        return self.look(settled=False)

    def append(self) -> None:
        # `quarantine retry` can take the appender's place once it exists.
        said = self.stack.root / "messages"
        said.write_text("\n".join(m.hex() for m in [*self.messages.values(), *bad_messages(self.rng, 16)]))
        if (self.stack.ledger / "ledger.db").exists() and self.messages:
            log = self.stack.root / "appender.log"
            self.appender = self.stack.warm.start(self.stack.environment, log, self.stack.root, APPENDER, str(self.rng.random()), str(said))

    def kill_within(self, seconds: float) -> None:
        killer = threading.Timer(seconds, self.stack.kill)
        killer.start()
        killer.join()

    def end_appender(self) -> None:
        if self.appender is not None and self.appender.poll() is None:
            self.appender.kill()
            self.appender.wait(30)
        assert self.appender is None or self.appender.returncode in {0, -9}, (self.stack.root / "appender.log").read_text()[-2000:]

    def to_its_end(self) -> None:
        stack = self.stack
        stack.start()
        until(stack.idle, 60, what="recovery to finish")
        # A message that was never recorded was never promised; its upload is still there and is described again.
        for study_id, message in self.messages.items():
            if (stack.uploads / f"{study_id}.dcm").exists():
                stack.publish(message)
        until(lambda: all(self.status_server.status(s) == "archived" for s in self.files), 90, what="all to be archived and told")
        until(stack.idle, 60)
        assert_archived(stack, self.files)
        found = self.look(settled=True)
        assert found["violations"] == []
        # When the read-backs are over, a quiet restart appends nothing.
        until(lambda: stack.metric('storage_ledger_pending{stage="confirm"}') == 0, 60, what="the read-backs to end")
        assert stack.stop() == 0
        before = self.look(settled=True)["counts"]
        stack.start()
        until(stack.idle, 30)
        assert stack.stop() == 0
        assert self.look(settled=True)["counts"] == before

    def look(self, *, settled: bool) -> dict:
        stack = self.stack
        checker = Checker(stack.uploads, stack.archive, stack.ledger, settled)
        found = checker.run()
        if settled:  # the other process did append
            assert any(e["data"].get("source") == "reconcile" for e in checker.entries)
        return found
