"""A program that does to the two databases what `serve` does, and nothing else, on the generated ledger below
LEDGER_PATH.

200 events/s, a `described` and an `archived` each, ten events a commit (synchronous=FULL), and an index that follows.
A line with seconds → a round that long → a line of JSON: events/s, ms a commit, entries that the index is behind, bytes of both WALs.
Where the ledger is somebody's, or the archive beside it, it changes nothing and ends with 1.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

from fed_service import filled
from many_studies import a_study, append

from storage_ledger.index.follower import Index
from storage_ledger.ledger.sqlite import SqliteLedger

EVENTS_A_SECOND = 200
EVENTS_A_COMMIT = 10


def main() -> None:
    folder = Path(os.environ["LEDGER_PATH"])
    filled(folder.parent)
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger)
    index.ensure()
    stop, wakeup = threading.Event(), threading.Event()
    follower = threading.Thread(target=index.run, args=(stop, wakeup))
    follower.start()
    rng = random.Random()
    number = 10_000_000 + rng.randrange(10**9)
    for line in sys.stdin:
        began, done, took = time.perf_counter(), 0, []
        while (due := began + done * EVENTS_A_COMMIT / EVENTS_A_SECOND) < began + float(line):
            now = time.perf_counter()
            if now >= began + float(line):
                break
            time.sleep(max(0.0, due - now))
            batch = []
            for _ in range(EVENTS_A_COMMIT):
                number += 1
                batch += a_study(rng, number, 1)
            at = time.perf_counter()
            append(ledger, batch)
            wakeup.set()
            took.append((time.perf_counter() - at) * 1000)
            done += 1
        rate = done * EVENTS_A_COMMIT / max(time.perf_counter() - began, float(line))
        last = ledger.last()
        wal = (folder / "ledger.db-wal").stat().st_size + (folder / "index.db-wal").stat().st_size
        found = {"rate": rate, "commit_ms": statistics.median(took), "commit_p95_ms": statistics.quantiles(took, n=20)[-1],
                 "behind": (last.position if last else 0) - index.position, "wal": wal}  # fmt: skip
        print(json.dumps(found), flush=True)
    stop.set()
    wakeup.set()
    follower.join()


if __name__ == "__main__":
    main()
