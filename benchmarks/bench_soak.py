"""Steady traffic for an hour while Redis and the Status Service are restarted: does anything grow, is every study archived once?

    scripts/bench soak [--minutes 60] [--rate 100] [--restart-minutes 5] [--folder DIR] [--write]

A publisher writes a file of 32 KB for each study and adds its message to a stream, evenly. Redis (SIGTERM, it keeps the stream) and a lean
Status Service (SIGKILL, it forgets) are down for five seconds in turns. Every ten seconds all processes of `serve` are sampled, and what
was archived meanwhile; build/soak.csv has the samples. At the end everything published must be archived once, and `verify` must be clean.
--write puts the verdict into docs/performance.md and the plot into docs/images/soak.svg.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path

import redis
from bench_archive import of
from bench_replay import service
from neighbours import StatusService, neighbours
from processes import cpu_s, descriptors, pss_mb, rss_mb, threads
from results import DOCS, ROOT, Table, markdown, write_performance
from svg import Panel, svg

sys.path.insert(0, str(ROOT))
from storage_ledger.system.sqlite import sqlite
from tests.support.dicom import described, make_file
from tests.support.results import conditions
from tests.support.valkey import Valkey
from tests.support.waiting import until

STREAM = "described"
NUMBER = 1_000_000_000
"""In the file that is made once; each study's number takes its place, in UIDs and names."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`backlog`: published, not yet archived. Latency: from adding the message to `archived`, of all that was since the last sample."""

    minute: float
    published: int
    archived: int
    backlog: int
    p50_ms: float
    p99_ms: float
    pss_mb: float
    rss_mb: float
    descriptors: int
    threads: int
    cpu_percent: float


class Publisher(threading.Thread):
    """Adds `rate` studies a second until it is stopped; after a pause of Redis it catches up."""

    def __init__(self, valkey: Valkey, uploads: Path, rate: float) -> None:
        super().__init__()
        self.published: dict[str, float] = {}
        self.stop = threading.Event()
        self._valkey, self._uploads, self._rate = valkey, uploads, rate
        path, uid = uploads / "template", f"1.2.826.0.1.8.{NUMBER}"
        made = make_file(path, rows=128, columns=128, study_uid=uid, series_uid=f"{uid}.1", sop_uid=f"{uid}.1.1")
        self._file, self._message = path.read_bytes(), json.dumps(described(f"soak-{NUMBER}", f"/app/uploads/{NUMBER}.dcm", made))
        path.unlink()

    def run(self) -> None:
        began = time.monotonic()
        with closing(self._valkey.client()) as client:
            while not self.stop.wait(max(0.0, began + len(self.published) / self._rate - time.monotonic())):
                number = str(NUMBER + len(self.published))
                (self._uploads / f"{number}.dcm").write_bytes(self._file.replace(str(NUMBER).encode(), number.encode()))
                while not self._added(client, f"soak-{number}", self._message.replace(str(NUMBER), number)):
                    time.sleep(0.05)

    def _added(self, client: redis.Redis, study_id: str, message: str) -> bool:
        self.published[study_id] = time.time()
        try:
            client.xadd(STREAM, {"data": message})
        except redis.RedisError:  # it is down, or still loads the stream
            return False
        return True


class Sampler:
    """Looks at `serve` and at its ledger; `path` gets each sample at once, so that a run that fails leaves them."""

    def __init__(self, pid: int, ledger: sqlite.Connection, published: dict[str, float], path: Path) -> None:
        self.samples: list[Sample] = []
        self._archived: set[str] = set()  # a message that Redis took before it went down is added twice, and archived once
        self._pid, self._ledger, self._published = pid, ledger, published
        self._position = 0
        path.parent.mkdir(exist_ok=True)
        self._csv = csv.writer(path.open("w", newline="", buffering=1))  # closed when the program ends
        self._csv.writerow([field.name for field in fields(Sample)])
        self._began = self._before = time.monotonic()
        self._cpu_s = cpu_s(pid)

    def sample(self) -> None:
        rows = self._ledger.execute(
            "SELECT position, study_id, recorded_at FROM entries WHERE position > ? AND kind = 'archived'", (self._position,)
        ).fetchall()
        took = [1000 * (datetime.fromisoformat(at).timestamp() - self._published.get(study, 0)) for _, study, at in rows]
        self._position = max((row[0] for row in rows), default=self._position)
        self._archived.update(row[1] for row in rows)
        now, spent, published, archived, pid = time.monotonic(), cpu_s(self._pid), len(self._published), len(self._archived), self._pid
        self.samples.append(Sample(
            (now - self._began) / 60, published, archived, published - archived, of(took, 0.5) if took else 0.0,
            of(took, 0.99) if took else 0.0, pss_mb(pid), rss_mb(pid), descriptors(pid), threads(pid),
            100 * (spent - self._cpu_s) / (now - self._before),
        ))  # fmt: skip
        self._before, self._cpu_s = now, spent
        self._csv.writerow(astuple(self.samples[-1]))
        print(
            "  ".join(f"{field.name} {value:.0f}" for field, value in zip(fields(Sample), astuple(self.samples[-1]), strict=True)),
            flush=True,
        )


def main() -> None:
    options = parsed()
    measured = conditions()
    with tempfile.TemporaryDirectory(prefix="storage-ledger-soak-", dir=options.folder) as scratch:
        folder = Path(scratch)
        with neighbours(folder, "--appendonly", "yes") as there:
            environment = {
                **os.environ, "REDIS_URL": there.valkey.url, "DESCRIBED_STREAM": STREAM, "HTTP_HOST": "127.0.0.1", "LOG_LEVEL": "ERROR",
                "STATUS_SERVICE_URL": f"http://127.0.0.1:{there.status.port}",
                **{f"{name.upper()}_PATH": str(folder / name) for name in ("uploads", "archive", "ledger")},
            }  # fmt: skip
            for name in ("uploads", "archive"):
                (folder / name).mkdir()
            publisher = Publisher(there.valkey, folder / "uploads", options.rate)
            with (
                service(environment) as (_, _, process),
                closing(
                    sqlite.connect(f"file:{folder / 'ledger' / 'ledger.db'}?mode=ro", uri=True, timeout=30, isolation_level=None)
                ) as ledger,
            ):
                sampler = Sampler(process.pid, ledger, publisher.published, options.csv)
                publisher.start()
                try:
                    restarts = run(sampler, [there.valkey, there.status], options)
                finally:
                    publisher.stop.set()
                    publisher.join()
                until(lambda: is_done(ledger, len(publisher.published)), 1800, what="all is archived and told", every_s=0.2)
                sampler.sample()
                once = archived_once(ledger, publisher.published)
        left = sum(1 for _ in (folder / "uploads").iterdir())
        command = [sys.executable, "-m", "storage_ledger", "verify", "--sample", "5%", "--no-record"]
        verified = subprocess.run(command, env=environment, check=False).returncode
    table = verdict(sampler.samples, restarts, options)
    table.rows += [
        ("studies archived exactly once", f"{once:,} of {len(publisher.published):,}", "", "all", said(once == len(publisher.published))),
        ("uploads left", str(left), "", "0", said(left == 0)),
        ("exit code of `verify --sample 5%`", str(verified), "", "0", said(verified == 0)),
    ]
    table.notes.append("![Latency, backlog, memory, descriptors and threads](images/soak.svg)")
    table.notes.append(
        f"{options.minutes:g} minutes at {options.rate:g} studies/s; Redis and the Status Service in turns down for {options.down:g} s, "
        f"{len(restarts)} times."
    )
    print(markdown([table]))
    if options.write:
        write_performance(measured, [table])
        (DOCS / "images" / "soak.svg").write_text(plot(sampler.samples, restarts))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="studies a second")
    parser.add_argument("--restart-minutes", type=float, default=5, help="between two restarts")
    parser.add_argument("--down", type=float, default=5, help="seconds that each takes (5)")
    parser.add_argument("--settle-minutes", type=float, default=1, help="after a restart: these samples count for no trend (1)")
    parser.add_argument("--every", type=float, default=10, help="seconds between two samples (10)")
    parser.add_argument("--csv", type=Path, default=ROOT / "build" / "soak.csv", help="the samples (build/soak.csv)")
    parser.add_argument("--folder", type=Path, help="where uploads, archive and ledger are made; default: the temporary folder")
    parser.add_argument("--write", action="store_true", help="put the verdict into docs/performance.md")
    return parser.parse_args()


def run(sampler: Sampler, others: Sequence[Valkey | StatusService], options: argparse.Namespace) -> list[float]:
    """Sample until the time is over, restarting a neighbour now and then; return the minutes at which that happened."""
    began, restarts, samples = time.monotonic(), [], 0
    while (minute := (time.monotonic() - began) / 60) < options.minutes:
        if minute > (len(restarts) + 1) * options.restart_minutes and minute + options.settle_minutes < options.minutes:
            neighbour = others[len(restarts) % len(others)]
            restarts.append(minute)
            neighbour.stop()
            time.sleep(options.down)
            neighbour.start()
        samples += 1
        time.sleep(max(0.0, began + samples * options.every - time.monotonic()))
        sampler.sample()
    return restarts


def is_done(ledger: sqlite.Connection, published: int) -> bool:
    [(archived,)] = ledger.execute("SELECT count(*) FROM entries WHERE kind = 'archived'").fetchall()
    return (
        archived >= published and not ledger.execute("SELECT 1 FROM pending WHERE stage IN ('place', 'remove', 'tell') LIMIT 1").fetchall()
    )


def archived_once(ledger: sqlite.Connection, published: Sequence[str]) -> int:
    """Return how many of the published studies have exactly one file that was placed."""
    name, is_placed = "json_extract(payload, '$.file.name')", "json_extract(payload, '$.placement') = 'copied'"
    sql = f"SELECT study_id, count(DISTINCT {name}), sum({is_placed}) FROM entries WHERE kind = 'archived' GROUP BY study_id"
    rows = ledger.execute(sql)
    return sum(files == placed == 1 and study in published for study, files, placed in rows)


def verdict(samples: Sequence[Sample], restarts: Sequence[float], options: argparse.Namespace) -> Table:
    """Trends over the samples after a sixth of the time, those soon after a restart left out."""
    calm = [
        each for each in samples[:-1]
        if each.minute > options.minutes / 6 and not any(0 <= each.minute - at < options.settle_minutes for at in restarts)
    ]  # fmt: skip
    table = Table("", ("what", "median after warm-up", "trend an hour", "at most", "reached"), place="soak")
    for name, field, unit, most in (
        ("memory of all processes (PSS)", "pss_mb", "MB", 0.05), ("memory of all processes (RSS)", "rss_mb", "MB", 0.05),
        ("open descriptors", "descriptors", "", 0.05), ("threads", "threads", "", 0.05),
        ("latency to `archived`, median", "p50_ms", "ms", 0.1), ("latency to `archived`, 99 %", "p99_ms", "ms", 0.5),
        ("CPU of all processes", "cpu_percent", "% of a processor", 0.1),
    ):  # fmt: skip
        minutes, values = [each.minute for each in calm], [float(getattr(each, field)) for each in calm]
        median, trend = statistics.median(values), 60 * statistics.linear_regression(minutes, values).slope
        bar = most * median
        table.rows.append((name, f"{median:.1f} {unit}".rstrip(), f"{trend:+.1f}", f"+{bar:.1f}", said(trend <= bar)))
    table.rows.append(("backlog at the end", str(samples[-1].backlog), "", "0", said(samples[-1].backlog == 0)))
    return table


def said(reached: bool) -> str:
    return "yes" if reached else "**no**"


def plot(samples: Sequence[Sample], restarts: Sequence[float]) -> str:
    def line(name: str) -> list[tuple[float, float]]:
        return [(each.minute, float(getattr(each, name))) for each in samples]

    return svg(
        [
            Panel("Latency from Redis to archived, ms", {"99 %": line("p99_ms"), "median": line("p50_ms")}, restarts),
            Panel("Backlog, studies", {"backlog": line("backlog")}, restarts),
            Panel("Memory of all processes, MB", {"RSS": line("rss_mb"), "PSS": line("pss_mb")}, restarts),
            Panel("Descriptors and threads", {"descriptors": line("descriptors"), "threads": line("threads")}, restarts),
        ],
        "minutes; grey: Redis or the Status Service is restarted",
    )


if __name__ == "__main__":
    main()
