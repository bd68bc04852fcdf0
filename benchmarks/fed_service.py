"""The service, given events: DICOM files in its uploads, messages on its Redis, and when its ledger says what became of them.

Also a program for inside a compose stack, which `compose_stack.py` runs: `whose`, `fill STUDIES`, `feed`. Where the stack has somebody's
studies, it changes nothing and ends with 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import redis
from many_studies import examples, make, slices

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from storage_ledger.system.sqlite import sqlite  # noqa: E402
from tests.support.dicom import described, make_file  # noqa: E402

PIXELS = 128
GENERATED = "000000-0000"


class Service:
    """`serve`, with `ledger` and `uploads` in `folder`, hearing `channel`."""

    def __init__(self, folder: Path, client: redis.Redis, channel: str) -> None:
        self._folder = folder
        self._uploads = folder / "uploads"
        self._client = client
        self._channel = channel
        self._run = random.randrange(10**6)
        self._made = 0

    def burst(self, events: int) -> float:
        """Events/s, when all come at once, until all are told."""
        messages = self.files(events)
        before = self._position()
        began = time.time()
        for _, message in messages:
            self._client.publish(self._channel, message)
        _, told = self._wait(before, events)
        return events / (max(told.values()) - began)

    def round(self, messages: list[tuple[str, str]], seconds: float) -> dict[str, float]:
        """All of them, evenly; what of them was archived while it lasted, and how long each took."""
        before = self._position()
        published = {}
        began = time.time()
        for number, (study_id, message) in enumerate(messages):
            time.sleep(max(0.0, began + number * seconds / len(messages) - time.time()))
            published[study_id] = time.time()
            self._client.publish(self._channel, message)
        time.sleep(max(0.0, began + seconds - time.time()))
        wal = sum((self._folder / "ledger" / f"{name}.db-wal").stat().st_size for name in ("ledger", "index"))
        behind = self._position() - self._indexed()
        archived, told = self._wait(before, len(messages))
        took = {
            name: [1000 * (at[study] - published[study]) for study in published] for name, at in (("archived", archived), ("told", told))
        }
        return {
            "rate": sum(at <= began + seconds for at in archived.values()) / seconds,
            "behind": behind,
            "wal": wal,
            **{f"{name}_ms": statistics.median(each) for name, each in took.items()},
            **{f"{name}_p95_ms": statistics.quantiles(each, n=20)[-1] for name, each in took.items()},
        }

    def files(self, count: int) -> list[tuple[str, str]]:
        """DICOM files in uploads, each a study of its own, and their messages."""
        found = []
        for _ in range(count):
            self._made += 1
            study_id = f"bench-{self._run}-{self._made:06}"
            path = self._uploads / f"{study_id}.dcm"
            made = make_file(path, rows=PIXELS, columns=PIXELS, seed=self._run * 1_000_000 + self._made)
            found.append((study_id, json.dumps(described(study_id, f"/app/uploads/{path.name}", made))))
        os.sync()  # what was made is not what is measured
        return found

    def _wait(self, before: int, events: int) -> tuple[dict[str, float], dict[str, float]]:
        """When each study was archived and told, once all are."""
        sql = "SELECT study_id, recorded_at FROM entries WHERE position > ? AND kind = ? AND study_id LIKE 'bench-%'"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with _reading(self._folder / "ledger" / "ledger.db") as connection:
                archived, told = (
                    {study: datetime.fromisoformat(at).timestamp() for study, at in connection.execute(sql, (before, kind))}
                    for kind in ("archived", "status-sent")
                )
            if len(archived) >= events and len(told) >= events:
                return archived, told
            time.sleep(0.2)
        raise TimeoutError(f"{len(archived)} of {events} archived, {len(told)} told")

    def _position(self) -> int:
        with _reading(self._folder / "ledger" / "ledger.db") as connection:
            return int(connection.execute("SELECT max(position) FROM entries").fetchone()[0])

    def _indexed(self) -> int:
        with _reading(self._folder / "ledger" / "index.db") as connection:
            return int(connection.execute("SELECT position FROM progress").fetchone()[0])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite.Connection]:
    connection = sqlite.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def settle(folder: Path, environment: Mapping[str, str], *, mirror: bool) -> None:
    """Make a generated ledger ready for `serve`: nothing pending, no metadata.json to write; if `mirror`, with a mirror."""
    with contextlib.closing(sqlite.connect(folder / "ledger" / "ledger.db")) as connection:
        connection.execute("DELETE FROM pending")
        connection.execute("UPDATE meta SET value = (SELECT max(position) FROM entries) WHERE name = 'metadata_synced'")
        connection.commit()
    if mirror:
        command = [sys.executable, "-m", "storage_ledger", "replay", "--mirror"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def filled(folder: Path) -> bool:
    """Whether the generated studies are there already. Ends the program where somebody's are, in the ledger or in an archive without."""
    with _reading(folder / "ledger" / "ledger.db") as connection:
        row = connection.execute("SELECT study_id FROM entries WHERE study_id IS NOT NULL ORDER BY position LIMIT 1").fetchone()
    found = [row[0]] if row else [each.name for each in (folder / "archive").iterdir() if not each.name.startswith(".")]
    if found and found[0] != GENERATED:
        sys.exit("the stack has somebody's studies: measure a stack of its own, since made-up ones stay in its ledger for ever")
    return bool(found)


def main() -> None:
    folder = Path(os.environ["LEDGER_PATH"]).parent  # the stack's folders lie beside each other
    ours = filled(folder)
    match sys.argv[1:]:
        case ["whose"]:
            pass
        case ["fill", studies]:
            if not ours:
                make(folder / "ledger", int(studies))
            slices(folder)
            settle(folder, os.environ, mirror=not ours)
        case ["feed"]:  # a line with a method and its arguments → a line with what it returned
            service = Service(folder, redis.Redis.from_url(os.environ["REDIS_URL"], protocol=2), os.environ["DESCRIBED_CHANNEL"])
            print(json.dumps(examples(folder)), flush=True)
            for line in sys.stdin:
                name, *arguments = json.loads(line)
                print(json.dumps(getattr(service, name)(*arguments)), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
