"""How long the pages take on a large index: a ledger of made-up DICOM studies, its index, and the real `browse` over HTTP.

    scripts/bench browse [--studies 100000] [--folder DIR] [--rounds 6] [--seconds 10]

DIR is kept and used again when it holds a ledger already. A page's time is that of its HTML, on a kept connection, the median
and the slowest of twenty, after two that warm the caches; "cpu" is what the process spent on each (Linux). Then pictures of CT slices,
512 x 512, each once and again.

Then what four people cost who writes, a process of commits and index, and a real `serve`: see `browse_writers.py`. What they write
stays in DIR.

The same pages, the same four people, and as writers the `serve` of a compose stack of its own, none of whose volumes is in use, and
in its place the process of commits and index:

    stack='docker compose --env-file /dev/null -p storage-ledger-bench -f compose.yaml'
    $stack up --build --detach
    scripts/bench browse --compose "$stack" [--port 8001]
    $stack down --volumes

The stack's empty ledger is filled first; a stack that has somebody's studies is left alone. Its pages are asked for through the published
port by somebody who has logged in; events are given to it, and its ledger is read, by a container beside it.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import browse_writers
from browse_writers import load
from compose_stack import filled, stat_of_browse, writing
from many_studies import SLICES, examples, make, slices

LIMITS_MS = {"home": 150, "list": 150, "list, last page": 150, "list, one modality": 150, "search, few": 150, "search, half": 150,
             "study of 3 files": 200, "study of 300 files": 200, "pipeline study": 200, "attention": 200, "entry": 200,
             "first thumbnail": 300, "cached thumbnail": 20}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="of each writer, half of them with people")
    parser.add_argument("--seconds", type=float, default=10.0, help="a round")
    parser.add_argument("--compose", metavar="COMMAND", help="measure the stack that this command line means")
    parser.add_argument("--port", type=int, default=8001, help="with --compose: where its pages are published")
    options = parser.parse_args()
    if options.compose:
        compose = shlex.split(options.compose)
        with filled(compose, options.studies, options.port) as (inside, cookie):
            writers = {
                "serve": partial(browse_writers.serve, nullcontext(inside)),
                "commits": partial(browse_writers.commits, writing(compose)),
            }
            slow = measure(
                inside.examples, options.port, partial(stat_of_browse, compose), cookie, writers, options.rounds, options.seconds
            )
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            if not (folder / "ledger" / "index.db").exists():
                (folder / "ledger").mkdir(parents=True, exist_ok=True)
                make(folder / "ledger", options.studies)
            slices(folder)
            writers = {
                "commits": partial(browse_writers.commits, browse_writers.a_writer(folder)),
                "serve": partial(browse_writers.serve, browse_writers.a_serve(folder)),
            }
            with browsing(folder) as (port, pid):
                slow = measure(examples(folder), port, Path(f"/proc/{pid}/stat").read_text, "", writers, options.rounds, options.seconds)
    print("all within their limits" if not slow else f"too slow: {', '.join(slow)}")
    sys.exit(1 if slow else 0)


@contextmanager
def browsing(folder: Path) -> Iterator[tuple[int, int]]:
    """The port and the process of a `browse` without a login."""
    command = [sys.executable, "-m", "storage_ledger", "browse", "--port", "0", "--no-login"]
    places = {"LEDGER_PATH": str(folder / "ledger"), "ARCHIVE_PATH": str(folder / "archive")}
    with subprocess.Popen(command, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = process.stderr or ()
            port = next(int(found[1]) for line in lines if (found := re.search(r"Browse on http://[^:]+:(\d+)/", line)))
            threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()  # its log must not fill the pipe
            yield port, process.pid
        finally:
            process.terminate()


def measure(
    known: dict[str, Any],
    port: int,
    stat: Callable[[], str],
    cookie: str,
    writers: dict[str, Callable[..., bool]],
    rounds: int,
    seconds: float,
) -> list[str]:
    """What of it all is too slow. `known` are `examples`; `stat` is what Linux tells in /proc of the process that answers."""
    big, usual, study_id = (quote(known[name]) for name in ("big", "usual", "study_id"))
    last = max(1, min(2000, known["studies"] // 50))
    pages = {
        "home": "/", "list": "/dicom", "list, last page": f"/dicom?page={last}", "list, one modality": "/dicom?modality=MR&sort=name",
        "search, few": "/dicom?q=tanaka+yuki", "search, half": "/dicom?q=a", "study of 3 files": f"/dicom/{usual}",
        "study of 300 files": f"/dicom/{big}", "pipeline study": f"/studies/{study_id}", "attention": "/attention",
        "entry": "/ledger/entries/1",
    }  # fmt: skip
    pictures = [f"/image/000000-{at:04d}/000000-{at:04d}.dcm?size=128" for at in range(SLICES)]
    print(
        f"{known['studies']:,} DICOM studies, {known['files']:,} files; {known['read_by']}, {os.cpu_count()} cores, load {load()}",
        flush=True,
    )
    site = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    looks = partial(ask, cookie=cookie)
    print(f"the very first page   {looks(site, pages['home'])[0]:8.1f} ms", flush=True)
    slow = [name for name, path in pages.items() if not told(name, *times(partial(looks, site, path), stat))]
    for path in pictures[:2]:
        looks(site, path)  # the workers start
    first = [looks(site, path) for path in pictures[2:]]
    again = [looks(site, path) for path in pictures[2:]]
    for name, found in (("first thumbnail", first), ("cached thumbnail", again)):
        took = [each[0] for each in found]
        size = round(statistics.mean(each[1] for each in found))
        slow += [] if told(name, statistics.median(took), max(took), math.nan, size) else [name]
    visits = [*pages.values(), f"/dicom?q={quote('ta')}", f"/dicom/{big}?file=000000-0007%2F000000-0007.dcm"]
    people = partial(browse_writers.People, port, visits, pictures, looks)
    return slow + [f"{name} with four people" for name, writer in writers.items() if not writer(people, rounds, seconds)]


def ask(site: http.client.HTTPConnection, path: str, *, cookie: str) -> tuple[float, int]:
    """How many ms it took, and how many bytes came."""
    began = time.perf_counter()
    site.request("GET", path, headers={"Accept": "text/html", "Cookie": cookie})
    answer = site.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status)
    assert not answer.getheader("X-Picture-Why"), (path, answer.getheader("X-Picture-Why"))
    return (time.perf_counter() - began) * 1000, len(body)


def times(asked: Callable[[], tuple[float, int]], stat: Callable[[], str]) -> tuple[float, float, float, int]:
    found = []
    spent = 0.0
    for number in range(22):
        spent = cpu_ms(stat) if number == 2 else spent
        took, size = asked()
        found.append(took)
    return statistics.median(found[2:]), max(found[2:]), (cpu_ms(stat) - spent) / 20, size


def cpu_ms(stat: Callable[[], str]) -> float:
    try:
        fields = stat().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def told(name: str, median: float, slowest: float, cpu: float, size: int) -> bool:
    within = median <= LIMITS_MS[name]
    verdict = "" if within else "   TOO SLOW"
    spent = "" if math.isnan(cpu) else f"cpu {cpu:5.1f} ms"
    took = f"{median:8.1f} ms   slowest {slowest:8.1f} ms   {spent:<12}"
    print(f"{name:<22}{took}   {size / 1000:6.0f} kB   limit {LIMITS_MS[name]} ms{verdict}")
    return within


if __name__ == "__main__":
    main()
