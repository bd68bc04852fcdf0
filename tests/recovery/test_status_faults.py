"""A Status Service with every possible fault: in the end it has `archived` for every study, and so does the ledger."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, deque

import pytest

from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.recovery.invariants import Checker
from tests.support.figures import note
from tests.support.proxy import Proxy
from tests.support.stack import Stack
from tests.support.status_server import Call, Fault
from tests.support.waiting import until

STUDIES = int(os.environ.get("STORAGE_LEDGER_STATUS", "24"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "19"))
CHAPTERS = 5
HANGS_EVERY = 25  # requests, until the intended number has hung
NAMED = {  # their name in `met`
    "5xx": Fault(code=500),
    "503": Fault(code=503, body=b"x" * 10_000),
    "429": Fault(code=429),
    "4xx": Fault(code=422),
    "lost before": Fault(close="before-storing"),
    "lost after": Fault(close="after-storing"),
    "garbage": Fault(code=200, body=b"\xff garbage"),
}


@pytest.mark.timeout(1800)
def test_a_status_service_that_fails_in_every_way_says_archived_of_every_study_in_the_end(tmp_path, valkey, status_server, warm):
    rng = random.Random(SEED)
    began = time.monotonic()
    proxy = Proxy(status_server.port)
    stack = Stack(tmp_path, valkey, f"http://127.0.0.1:{proxy.port}", warm=warm, STATUS_CONFIRM_SECONDS=0.2)
    faults = Faults(rng, hangs=1 + STUDIES // 100)
    files: dict[str, bytes] = {}
    try:
        stack.start()
        for chapter in range(CHAPTERS):
            mine = [f"s{chapter}-{i:03d}" for i in range(chapter, STUDIES, CHAPTERS)]
            status_server.always = faults
            for i, study_id in enumerate(mine):
                message, files[study_id] = upload(stack, study_id, seed=i)
                stack.publish(message)
                if rng.random() < 0.3:  # the descriptor is late, by any amount
                    threading.Timer(rng.random() * 0.5, status_server.late_described, (study_id, message["metadata"])).start()
            if chapter == 0:  # it loses its data, before any status has had its last read-back
                until(lambda: status_server.statuses, 30)
                status_server.forget()
            elif chapter == 1:  # unavailable to all clients
                status_server.always = Fault(code=503)
                until(lambda: stack.metric('storage_ledger_outage{code="status-service-away",step="tell"}') == 1, 60, what="the outage")
                status_server.always = faults
            elif chapter == 2:
                proxy.cut()
            until(lambda mine=mine: len(told(stack)) >= len(files) - len(mine) // 4, 120, what="most to be told")
        status_server.always = None
        until(lambda: all(status_server.status(s) == "archived" for s in files), 90, what="all to be told, and to stay so")
        until(stack.idle, 60)
        until(lambda: stack.metric('storage_ledger_pending{stage="confirm"}') == 0, 90, what="the read-backs to end")
        assert {study_id: status_server.status(study_id) for study_id in files} == dict.fromkeys(files, "archived")
        assert_archived(stack, files)
        checker = Checker(stack.uploads, stack.archive, stack.ledger, settled=True)
        found = checker.run()
        points = sum(faults.met.values())
        note("status", points=points, of=points, studies=STUDIES, seconds=round(time.monotonic() - began, 1), seed=SEED,
              violations=len(found["violations"]), met=dict(faults.met))  # fmt: skip
        assert found["violations"] == []
        assert set(faults.met) == {*NAMED, "hangs"}  # each fault did happen
        # The ledger has a sent status for each study, one or two entries for each outage, and one for each refusal.
        assert told(stack) == set(files)
        shared = [e for e in checker.entries if e["kind"] in {"failed", "recovered"} and e["study_id"] is None]
        assert 2 <= len(shared) <= 2 * CHAPTERS
        alone = Counter(e["study_id"] for e in checker.entries if e["kind"] == "failed" and e["study_id"] is not None)
        assert sum(alone.values()) <= faults.met["4xx"]
        assert not alone or max(alone.values()) <= 4
        assert stack.stop() == 0
    finally:
        stack.close()
        proxy.close()


class Faults:
    """Gives one request in three a fault, each kind in turn; a few hang until the client gives up."""

    def __init__(self, rng: random.Random, hangs: int) -> None:
        self._rng = rng
        self._hangs = hangs
        self._calls = 0
        self._turn: deque[str] = deque()
        self._never = threading.Event()
        self.met: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Fault | None:
        with self._lock:
            self._calls += 1
            if self._hangs and self._calls % HANGS_EVERY == 0:
                self._hangs -= 1
                self.met["hangs"] += 1
                return Fault(hang=self._never, close="before-storing")
            if self._rng.random() > 0.3:
                return None
            if not self._turn:
                self._turn.extend(self._rng.sample(sorted(NAMED), len(NAMED)))
            name = self._turn[0]
            if call.method == "GET" and name in {"garbage", "4xx"}:
                return None  # a nonsensical answer to a read-back counts as read: see docs/reliability.md
            self.met[self._turn.popleft()] += 1
            return NAMED[name]


def told(stack: Stack) -> set[str]:
    """Return the studies whose `archived` was sent, according to the ledger."""
    checker = Checker(stack.uploads, stack.archive, stack.ledger, settled=False)
    checker.read_ledger()
    return {e["study_id"] for e in checker.entries if e["kind"] == "status-sent" and e["data"]["status"] == "archived"}
