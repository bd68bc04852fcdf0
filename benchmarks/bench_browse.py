"""How long the pages take on a large index: a ledger of made-up DICOM studies, its index, and the real `browse` over HTTP.

    scripts/bench browse [--studies 100000] [--folder DIR] [--rounds 6] [--seconds 10]

DIR is kept and used again when it holds a ledger already. A page's time is that of its HTML, on a kept connection, the median
and the slowest of twenty, after two that warm the caches; "cpu" is what the process spent on each (Linux). Then pictures of CT slices,
512 x 512, each once and again.

Then what four people cost who writes, a process of commits and index, and a real `serve`: see `browse_writers.py`. What they write
stays in DIR.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

import browse_writers
from browse_writers import load
from many_studies import SLICES, make, slices

from storage_ledger.ledger.engine import sqlite

LIMITS_MS = {"home": 150, "list": 150, "list, last page": 150, "list, one modality": 150, "search, few": 150, "search, half": 150,
             "study of 3 files": 200, "study of 300 files": 200, "pipeline study": 200, "attention": 200, "entry": 200,
             "first thumbnail": 300, "cached thumbnail": 20}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="of each writer, half of them with people")
    parser.add_argument("--seconds", type=float, default=10.0, help="a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "ledger" / "index.db").exists():
            (folder / "ledger").mkdir(parents=True, exist_ok=True)
            make(folder / "ledger", options.studies)
        slices(folder)
        measure(folder, options.rounds, options.seconds)


def measure(folder: Path, rounds: int, seconds: float) -> None:
    connection = sqlite.connect(f"file:{folder / 'ledger' / 'index.db'}?mode=ro", uri=True)
    studies, files = connection.execute("SELECT count(*), sum(files) FROM dicom_studies").fetchone()
    big = connection.execute("SELECT study_instance_uid FROM dicom_studies ORDER BY files DESC LIMIT 1").fetchone()[0]
    usual = connection.execute("SELECT study_instance_uid FROM dicom_studies WHERE files = 3 LIMIT 1").fetchone()[0]
    study_id = connection.execute("SELECT study_id FROM files WHERE study_instance_uid = ? LIMIT 1", (usual,)).fetchone()[0]
    connection.close()
    last = max(1, min(2000, studies // 50))
    pages = {
        "home": "/", "list": "/dicom", "list, last page": f"/dicom?page={last}", "list, one modality": "/dicom?modality=MR&sort=name",
        "search, few": "/dicom?q=tanaka+yuki", "search, half": "/dicom?q=a", "study of 3 files": f"/dicom/{quote(usual)}",
        "study of 300 files": f"/dicom/{quote(big)}", "pipeline study": f"/studies/{quote(study_id)}", "attention": "/attention",
        "entry": "/ledger/entries/1",
    }  # fmt: skip
    pictures = [f"/image/000000-{at:04d}/000000-{at:04d}.dcm?size=128" for at in range(SLICES)]
    on = f"SQLite {sqlite.sqlite_version}, Python {platform.python_version()}, {os.cpu_count()} cores, load {load()}"
    print(f"{studies:,} DICOM studies, {files:,} files; {on}", flush=True)
    command = [sys.executable, "-m", "storage_ledger", "browse", "--port", "0", "--no-login"]
    places = {"LEDGER_PATH": str(folder / "ledger"), "ARCHIVE_PATH": str(folder / "archive")}
    with subprocess.Popen(command, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = process.stderr or ()
            port = next(int(found[1]) for line in lines if (found := re.search(r"Browse on http://[^:]+:(\d+)/", line)))
            threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()  # its log must not fill the pipe
            site = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            print(f"the very first page   {ask(site, pages['home'])[0]:8.1f} ms", flush=True)
            slow = [name for name, path in pages.items() if not told(name, *times(site, path, process.pid))]
            for path in pictures[:2]:
                ask(site, path)  # the workers start
            first = [ask(site, path) for path in pictures[2:]]
            again = [ask(site, path) for path in pictures[2:]]
            for name, found in (("first thumbnail", first), ("cached thumbnail", again)):
                took = [each[0] for each in found]
                size = round(statistics.mean(each[1] for each in found))
                slow += [] if told(name, statistics.median(took), max(took), math.nan, size) else [name]
            visits = [*pages.values(), f"/dicom?q={quote('ta')}", f"/dicom/{quote(big)}?file=000000-0007%2F000000-0007.dcm"]
            people = partial(browse_writers.People, port, visits, pictures, ask)
            for writer in (browse_writers.commits, browse_writers.serve):
                slow += [] if writer(folder, people, rounds, seconds) else [f"{writer.__name__} with four people"]
        finally:
            process.terminate()
    print("all within their limits" if not slow else f"too slow: {', '.join(slow)}")
    sys.exit(1 if slow else 0)


def ask(site: http.client.HTTPConnection, path: str) -> tuple[float, int]:
    """How many ms it took, and how many bytes came."""
    began = time.perf_counter()
    site.request("GET", path, headers={"Accept": "text/html"})
    answer = site.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status)
    assert not answer.getheader("X-Picture-Why"), (path, answer.getheader("X-Picture-Why"))
    return (time.perf_counter() - began) * 1000, len(body)


def times(connection: http.client.HTTPConnection, path: str, pid: int) -> tuple[float, float, float, int]:
    found = []
    spent = 0.0
    for number in range(22):
        spent = cpu_ms(pid) if number == 2 else spent
        took, size = ask(connection, path)
        found.append(took)
    return statistics.median(found[2:]), max(found[2:]), (cpu_ms(pid) - spent) / 20, size


def cpu_ms(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
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
