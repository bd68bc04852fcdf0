"""What four readers cost a writer: two writers, each in alternating rounds with and without readers.

`commits`: only what `serve` does to the two databases (`commits_alone`), at 200 events/s.

`serve`: the service itself, given DICOM files of 32 KB through a Valkey, sending statuses to the reference Status Service, at
70 % of the rate that it reaches in a burst in the same run, at most 200 events/s. Latency is from PUBLISH to the entry.

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
Visit = Callable[[http.client.HTTPConnection, random.Random], int]
"""Asks for something, and returns the number of answers."""


def a_page_and_thumbnails(pages: list[str], pictures: list[str], ask: Ask) -> Visit:
    """A visit of the web page."""

    def visit(site: http.client.HTTPConnection, rng: random.Random) -> int:
        asked = (rng.choice(pages), *rng.sample(pictures, 8))
        for path in asked:
            ask(site, path)
        return len(asked)

    return visit


class People:
    """Four readers, each on a kept connection, with a visit every 1 to 4 seconds."""

    def __init__(self, port: int, visit: Visit) -> None:
        self._left = threading.Event()
        self._pool = ThreadPoolExecutor(PEOPLE)
        self._looking = [self._pool.submit(self._one, each, port, visit) for each in range(PEOPLE)]

    def leave(self) -> int:
        """Stop them and return the number of answers. Raises the error of any reader: fewer readers would cost less."""
        self._left.set()
        self._pool.shutdown()
        return sum(each.result() for each in self._looking)

    def _one(self, number: int, port: int, visit: Visit) -> int:
        rng = random.Random(number)
        site = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        answers = 0
        self._left.wait(rng.uniform(0, 2))
        while not self._left.is_set():
            answers += visit(site, rng)
            self._left.wait(rng.uniform(1, 4))
        site.close()
        return answers


def commits(
    writing: AbstractContextManager[subprocess.Popen[str]], people: Callable[[], People], rounds: int, seconds: float
) -> list[tuple[str, ...]]:
    """Measure the first writer; return its rows."""
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
    return _compared("commits and index", found, EVENTS_A_SECOND, ("a commit, median", "commit_ms"))


@contextlib.contextmanager
def a_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start `commits_alone` on the generated ledger in `folder`."""
    environment = {**os.environ, "LEDGER_PATH": str(folder / "ledger")}
    command = [sys.executable, commits_alone.__file__]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def serve(
    serving: AbstractContextManager[Service | Inside], people: Callable[[], People], rounds: int, seconds: float
) -> list[tuple[str, ...]]:
    """Measure `serve`; return its rows."""
    with serving as service:
        service.burst(BURST)
        most = service.burst(BURST)
        rate = min(EVENTS_A_SECOND, OF_ITS_MOST * most)
        print(f"serve alone takes {most:.0f} events/s of {PIXELS * PIXELS * 2 // 1024} KB; given {rate:.0f}:", flush=True)
        columns = (("archived", "archived_ms"), ("95 %", "archived_p95_ms"), ("told", "told_ms"), ("95 %", "told_p95_ms"))
        found = _in_turns(
            people, rounds, lambda: service.files(round(rate * seconds)), lambda files: service.round(files, seconds), *columns
        )
    return _compared(
        f"`serve` (a burst reaches {most:.0f} events/s)",
        found,
        rate,
        ("from PUBLISH to `archived`, median", "archived_ms"),
        ("from PUBLISH to `archived`, 95th percentile", "archived_p95_ms"),
        ("from PUBLISH to `status-sent`, median", "told_ms"),
    )


@contextlib.contextmanager
def a_serve(folder: Path) -> Iterator[Service]:
    """Start the service, a Valkey and the reference Status Service on the generated ledger in `folder`."""
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
        took = "".join(f"{name} {one[key]:6.1f} ms   " for name, key in columns)
        print(f"  {'4 readers' if crowd else 'alone   '}  {one['rate']:6.1f} events/s   {took}index behind {one['behind']:5.0f}   "
              f"WAL {one['wal'] / 1e6:5.1f} MB   {clicks:3} answers   load {load()}", flush=True)  # fmt: skip
    return found


def _compared(name: str, found: dict[bool, list[dict[str, float]]], wanted: float, *columns: tuple[str, str]) -> list[tuple[str, ...]]:
    rates = {crowd: statistics.mean(each["rate"] for each in of) for crowd, of in found.items()}
    slower = 1 - rates[True] / rates[False]
    reached = "yes" if slower < MOST_SLOWER else "**no**"
    rows = [
        (
            f"{name}, given {wanted:.0f} events/s",
            f"{rates[False]:.1f}/s",
            f"{rates[True]:.1f}/s",
            f"{slower:.1%}",
            f"less than {MOST_SLOWER:.0%}",
            reached,
        )
    ]
    for title, key in columns:
        took = {crowd: statistics.median(each[key] for each in of) for crowd, of in found.items()}
        rows.append((title, f"{took[False]:.1f} ms", f"{took[True]:.1f} ms", f"{took[True] / took[False] - 1:.1%}", "", ""))
    for row in rows:
        print("  " + "   ".join(filter(None, row)), flush=True)
    return rows


def load() -> str:
    """Return the load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
