"""Response times of the web page on a large index, and what four readers cost a writer.

    scripts/bench browse [--studies 100000] [--folder DIR] [--rounds 6] [--seconds 10]

A ledger of made-up DICOM studies, its index, and the real `browse` over HTTP. --folder keeps them in DIR and uses them again.
A page's time is that of its HTML on a kept connection: median and slowest of twenty, after two to warm the caches; "CPU" is
what the process spent on each (Linux). Then thumbnails of CT slices, 512 x 512, each twice: first made, then cached.

Then four readers beside two writers, a process of commits and index and a real `serve`: see `browse_writers.py`. What they
write stays in DIR.

The same with a compose stack of its own, none of whose volumes is in use:

    stack='docker compose --env-file /dev/null -p storage-ledger-bench -f compose.yaml'
    $stack up --build --detach
    scripts/bench browse --compose "$stack" [--port 8001]
    $stack down --volumes

The stack's empty ledger is filled first; a stack that holds real studies is refused. Pages are fetched through the published
port with a login; a container beside the stack sends events and reads its ledger.
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
from results import Table, save

MISSED = "**no**"
LIMITS_MS = {"home": 150, "list": 150, "list, last page": 150, "list, one modality": 150, "search, few": 150, "search, half": 150,
             "study of 3 files": 200, "study of 300 files": 200, "pipeline study": 200, "attention": 200, "entry": 200,
             "first thumbnail": 300, "cached thumbnail": 20}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="per writer, half of them with four readers")
    parser.add_argument("--seconds", type=float, default=10.0, help="per round")
    parser.add_argument("--compose", metavar="COMMAND", help="measure the stack that this compose command line names")
    parser.add_argument("--port", type=int, default=8001, help="with --compose: the published port of its web page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the tables for scripts/bench --write")
    options = parser.parse_args()
    if options.compose:
        compose = shlex.split(options.compose)
        with filled(compose, options.studies, options.port) as (inside, cookie):
            writers = {
                "serve": partial(browse_writers.serve, nullcontext(inside)),
                "commits": partial(browse_writers.commits, writing(compose)),
            }
            tables, slow = measure(
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
                tables, slow = measure(
                    examples(folder), port, Path(f"/proc/{pid}/stat").read_text, "", writers, options.rounds, options.seconds
                )
    if options.json:
        save(options.json, tables)
    print("all within their limits" if not slow else f"too slow: {', '.join(slow)}")
    sys.exit(1 if slow else 0)


@contextmanager
def browsing(folder: Path) -> Iterator[tuple[int, int]]:
    """Start a `browse` without login and yield its port and process id."""
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
) -> tuple[list[Table], list[str]]:
    """Return the tables, and the names of what was too slow. `known` are `examples`; `stat` reads the server's /proc/PID/stat."""
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
    first_page = looks(site, pages["home"])[0]
    print(f"the very first page   {first_page:8.1f} ms", flush=True)
    table = Table(
        f"browse: {known['studies']:,} DICOM studies, {known['files']:,} files",
        ("page", "median", "slowest of 20", "CPU", "target", "reached"),
        notes=[f"The first page after the start took {first_page:.0f} ms."],
    )
    table.rows = [result(name, *times(partial(looks, site, path), stat)) for name, path in pages.items()]
    for path in pictures[:2]:
        looks(site, path)  # the workers start
    first = [looks(site, path) for path in pictures[2:]]
    again = [looks(site, path) for path in pictures[2:]]
    for name, found in (("first thumbnail", first), ("cached thumbnail", again)):
        took = [each[0] for each in found]
        size = round(statistics.mean(each[1] for each in found))
        table.rows.append(result(name, statistics.median(took), max(took), math.nan, size))
    visits = [*pages.values(), f"/dicom?q={quote('ta')}", f"/dicom/{big}?file=000000-0007%2F000000-0007.dcm"]
    people = partial(browse_writers.People, port, browse_writers.a_page_and_thumbnails(visits, pictures, looks))
    beside = Table(
        "browse: a writer alone and beside four readers",
        ("writer", "alone", "beside four readers", "slower", "target", "reached"),
    )
    for writer in writers.values():
        beside.rows += writer(people, rounds, seconds)
    tables = [table, beside]
    return tables, [row[0] for each in tables for row in each.rows if row[-1] == MISSED]


def ask(site: http.client.HTTPConnection, path: str, *, cookie: str) -> tuple[float, int]:
    """Return the milliseconds that a page took, and its bytes."""
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


def result(name: str, median: float, slowest: float, cpu: float, size: int) -> tuple[str, ...]:
    """Print one line, and return the row of the table."""
    reached = "yes" if median <= LIMITS_MS[name] else MISSED
    spent = "" if math.isnan(cpu) else f"{cpu:.1f} ms"
    took = f"{median:8.1f} ms   slowest {slowest:8.1f} ms   CPU {spent:<9}"
    print(f"{name:<22}{took}   {size / 1000:6.0f} kB   limit {LIMITS_MS[name]} ms {reached}")
    return name, f"{median:.1f} ms", f"{slowest:.1f} ms", spent, f"{LIMITS_MS[name]} ms", reached


if __name__ == "__main__":
    main()
