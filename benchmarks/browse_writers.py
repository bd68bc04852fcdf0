"""What four people who look cost who writes: two writers, each in rounds with and without them that alternate.

`commits`: what `serve` does to the two databases, and nothing else (`commits_alone`), at 200 events/s.

`serve`: the service itself, fed through a Valkey with DICOM files of 32 KB, telling the reference Status Service; at 70 % of what it
takes when it is given all at once, found in the same run, 200 events/s at most. Latency is from PUBLISH to the entry.

Both are processes of this benchmark's own, or in a compose stack.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import commits_alone
import httpx
from commits_alone import EVENTS_A_SECOND
from compose_stack import Inside
from fed_service import PIXELS, Service, settle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.valkey import Valkey, free_port  # noqa: E402

OF_ITS_MOST = 0.7
BURST = 300
PEOPLE = 4
MOST_SLOWER = 0.1

Given = TypeVar("Given")
Ask = Callable[[http.client.HTTPConnection, str], object]


class People:
    """Four of them, each on a connection that stays open: a page and eight of its thumbnails, every 1 to 4 seconds."""

    def __init__(self, port: int, visits: list[str], pictures: list[str], ask: Ask) -> None:
        self._left = threading.Event()
        self._pool = ThreadPoolExecutor(PEOPLE)
        self._looking = [self._pool.submit(self._one, each, port, visits, pictures, ask) for each in range(PEOPLE)]

    def leave(self) -> int:
        """How many answers they had. Raises what went wrong for one of them: fewer people cost less."""
        self._left.set()
        self._pool.shutdown()
        return sum(each.result() for each in self._looking)

    def _one(self, number: int, port: int, visits: list[str], pictures: list[str], ask: Ask) -> int:
        rng = random.Random(number)
        site = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        answers = 0
        self._left.wait(rng.uniform(0, 2))
        while not self._left.is_set():
            for path in (rng.choice(visits), *rng.sample(pictures, 8)):
                ask(site, path)
                answers += 1
            self._left.wait(rng.uniform(1, 4))
        site.close()
        return answers


def commits(writing: AbstractContextManager[subprocess.Popen[str]], people: Callable[[], People], rounds: int, seconds: float) -> bool:
    """Whether four people slow the first writer by less than a tenth."""
    with writing as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def a_round(length: float) -> dict[str, float]:
            print(length, file=process.stdin, flush=True)
            return dict(json.loads(process.stdout.readline()))

        a_round(2.0)
        print(f"a writer of commits and index, {EVENTS_A_SECOND} events/s:", flush=True)
        found = _in_turns(people, rounds, lambda: None, lambda _: a_round(seconds), ("commit", "commit_ms"), ("95 %", "commit_p95_ms"))
        process.stdin.close()
    return _told(found, EVENTS_A_SECOND, ("a commit", "commit_ms"))


@contextlib.contextmanager
def a_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The first one, on the generated ledger in `folder`."""
    environment = {**os.environ, "LEDGER_PATH": str(folder / "ledger")}
    command = [sys.executable, commits_alone.__file__]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def serve(serving: AbstractContextManager[Service | Inside], people: Callable[[], People], rounds: int, seconds: float) -> bool:
    """Whether they slow a `serve` by less than a tenth."""
    with serving as service:
        service.burst(BURST)
        most = service.burst(BURST)
        rate = min(EVENTS_A_SECOND, OF_ITS_MOST * most)
        print(f"serve alone takes {most:.0f} events/s of {PIXELS * PIXELS * 2 // 1024} KB; it is given {rate:.0f}:", flush=True)
        columns = (("archived", "archived_ms"), ("95 %", "archived_p95_ms"), ("told", "told_ms"), ("95 %", "told_p95_ms"))
        found = _in_turns(
            people, rounds, lambda: service.files(round(rate * seconds)), lambda files: service.round(files, seconds), *columns
        )
    return _told(found, rate, ("from PUBLISH to archived", "archived_ms"), ("to told", "told_ms"), ("to archived, 95 %", "archived_p95_ms"))


@contextlib.contextmanager
def a_serve(folder: Path) -> Iterator[Service]:
    """The service itself, with a Valkey and the reference Status Service, on the generated ledger in `folder`."""
    port, status_port = free_port(), free_port()
    places = {name: folder / name for name in ("uploads", "valkey")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    valkey = Valkey(places["valkey"])
    valkey.start()
    environment = {
        **os.environ, "REDIS_URL": valkey.url, "DESCRIBED_CHANNEL": valkey.channel(), "STATUS_SERVICE_URL": f"http://127.0.0.1:{status_port}",
        "UPLOADS_PATH": str(places["uploads"]), "ARCHIVE_PATH": str(folder / "archive"), "LEDGER_PATH": str(folder / "ledger"),
        "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port), "LOG_LEVEL": "WARNING", "RECONCILE_SECONDS": "0",
    }  # fmt: skip
    ours = [sys.executable, "-m", "storage_ledger"]
    settle(folder, environment, mirror=not (folder / "archive" / ".ledger").exists())
    processes = [
        subprocess.Popen([*ours, "status-service", "--port", str(status_port)], env=environment, stderr=subprocess.DEVNULL),
        subprocess.Popen([*ours, "serve"], env=environment, stderr=subprocess.DEVNULL),
    ]
    try:
        for address in (f"http://127.0.0.1:{status_port}/health", f"http://127.0.0.1:{port}/readyz"):
            _until_well(address)
        yield Service(folder, valkey.client(), environment["DESCRIBED_CHANNEL"])
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)
        valkey.stop()


def _until_well(address: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(address, timeout=10).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(address)
        time.sleep(0.1)


def _in_turns(
    people: Callable[[], People],
    rounds: int,
    prepared: Callable[[], Given],
    a_round: Callable[[Given], dict[str, float]],
    *columns: tuple[str, str],
) -> dict[bool, list[dict[str, float]]]:
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for number in range(rounds):
        crowd = number % 4 in {1, 2}  # without, with, with, without
        given = prepared()
        those = people() if crowd else None
        one = a_round(given)
        clicks = those.leave() if those else 0
        found[crowd].append(one)
        told = "".join(f"{name} {one[key]:6.1f} ms   " for name, key in columns)
        print(f"  {'4 people' if crowd else 'nobody  '}  {one['rate']:6.1f} events/s   {told}index behind {one['behind']:5.0f}   "
              f"WAL {one['wal'] / 1e6:5.1f} MB   {clicks:3} answers   load {load()}", flush=True)  # fmt: skip
    return found


def _told(found: dict[bool, list[dict[str, float]]], wanted: float, *columns: tuple[str, str]) -> bool:
    rates = {crowd: statistics.mean(each["rate"] for each in of) for crowd, of in found.items()}
    slower = 1 - rates[True] / rates[False]
    print(f"at {wanted:.0f} events/s: {rates[False]:.1f}/s, with four people {rates[True]:.1f}/s, {slower:+.1%} slower "
          f"(limit {MOST_SLOWER:.0%})", flush=True)  # fmt: skip
    for name, key in columns:
        took = {crowd: statistics.median(each[key] for each in of) for crowd, of in found.items()}
        print(f"  {name}: {took[False]:.1f} ms, with them {took[True]:.1f} ms", flush=True)
    return slower < MOST_SLOWER


def load() -> str:
    """Of the machine, in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
