"""A large ledger beside a small one: what grows with the number of entries, and how many bytes there are per study.

    scripts/bench size [--entries 10000000] [--folder DIR] [--rounds 3] [--write]

Ledgers of 10,000 and of `--entries` entries are made (`make_ledger.py`: entries only, no files) and measured in turns, in one run: what a
commit, the follower, the start of `serve`, `show`, `status`, a page, `verify` of the ledger, a rebuild and the mirror cost, and memory.
Ratios are large / small, of the least of all rounds. What waits for nothing is measured in CPU time, which other programs disturb less.
--folder keeps the ledgers there and uses them again; 10,000,000 entries need 30 GB and half an hour.
--write puts the tables into docs/performance.md.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import make_ledger
from bench_browse import ask, browsing
from bench_replay import command, measure, peak_kb, service
from fed_service import settle
from many_studies import a_study, append, examples
from neighbours import Neighbours, neighbours
from processes import pss_mb
from results import Table, markdown, write_performance

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from storage_ledger.index.follower import Index  # noqa: E402
from storage_ledger.ledger.sqlite import SqliteLedger  # noqa: E402
from storage_ledger.operations.report.status import current_status  # noqa: E402
from storage_ledger.operations.report.timeline import timeline_of  # noqa: E402
from storage_ledger.operations.verify import ledger as verify_ledger  # noqa: E402
from storage_ledger.operations.verify.findings import Findings  # noqa: E402
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader  # noqa: E402
from storage_ledger.settings import Settings  # noqa: E402
from storage_ledger.system.sqlite import sqlite  # noqa: E402
from tests.support.results import conditions  # noqa: E402

MOST_TIMES = 1.5
ONCE, EACH_ROUND = ("mirror", "rebuild", "verify"), ("writes", "start", "reads", "pages")
STUDIES = 20
"""Studies that `show` is asked for in a round."""

Costs = dict[str, float]
"""Name and unit of each → what it costs: less is better."""


class Side:
    """One of the two ledgers."""

    def __init__(self, folder: Path, entries: int, there: Neighbours) -> None:
        self.folder, self.entries = folder, entries
        self.ledger, self.archive = folder / "ledger", folder / "archive"
        self.rng = random.Random(entries)
        self.costs: dict[str, list[float]] = {}
        self._number = 10_000_000 + self.rng.randrange(10**9)
        for each in (self.archive, uploads := folder / "uploads"):
            each.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(uploads_path=uploads, archive_path=self.archive, ledger_path=self.ledger, http_port=0)
        self.environment = {
            **os.environ, "REDIS_URL": there.valkey.url, "STATUS_SERVICE_URL": f"http://127.0.0.1:{there.status.port}",
            "UPLOADS_PATH": str(uploads), "ARCHIVE_PATH": str(self.archive), "LEDGER_PATH": str(self.ledger), "HTTP_HOST": "127.0.0.1",
            "LOG_LEVEL": "ERROR",
        }  # fmt: skip
        if not (self.ledger / "ledger.db").exists():
            subprocess.run([sys.executable, make_ledger.__file__, str(folder), "--entries", str(entries)], check=True)
        settle(folder, self.environment, mirror=False)

    def a_study(self) -> list[dict]:
        self._number += 1
        return list(a_study(self.rng, self._number, 1))

    def run(self, part: Callable[[Side], Costs]) -> None:
        began = time.perf_counter()
        for name, cost in part(self).items():
            self.costs.setdefault(name, []).append(cost)
        print(
            f"{self.entries:>12,} entries: {part.__name__} in {time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=10_000, help="entries of the other ledger (10000)")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join((*ONCE, *EACH_ROUND)))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    measured = conditions()
    with tempfile.TemporaryDirectory(prefix="storage-ledger-bench-", dir=options.folder) as scratch, neighbours(Path(scratch)) as there:
        root = options.folder or Path(scratch)
        sides = [Side(root / f"{entries}-entries", entries, there) for entries in (options.small, options.entries)]
        for names, rounds in ((ONCE, 1), (EACH_ROUND, options.rounds)):
            for part in rounds * [PARTS[name] for name in names if name in options.parts.split(",")]:
                for side in sides:
                    side.run(part)
        tables = [compared(*sides), sizes(sides[1])]
    print(markdown(tables))
    if options.write:
        write_performance(measured, tables)


def mirror(side: Side) -> Costs:
    if (side.archive / ".ledger").exists():
        return {}
    before = cpu_of_children()
    command(side.environment, "replay", "--mirror")
    return {"`replay --mirror`, s of CPU a million entries": 1e6 * (cpu_of_children() - before) / side.entries}


def rebuild(side: Side) -> Costs:
    found = measure("rebuild", side.ledger)
    return {
        "index rebuild, s of CPU a million entries": 1e6 * found["cpu_s"] / found["entries"],
        "index rebuild, MB of memory": found["peak_kb"] / 1024,
    }


def verify(side: Side) -> Costs:
    """Everything that `verify` checks in ledger.db, and that it found nothing."""
    found = Findings()
    with closing(UntrustingReader(side.ledger / "ledger.db")) as reader:
        last = reader.last()
        began = time.process_time()
        verify_ledger.check_file(reader, found, lambda: False)
        damage = verify_ledger.check_entries(reader, found, last, lambda _: None)
        verify_ledger.check_keys(reader, found, damage, last)
        took = time.process_time() - began
    assert not found.counts, found.counts
    return {"`verify` of the ledger, s of CPU a million entries": 1e6 * took / last}


def writes(side: Side) -> Costs:
    """Commits, the follower, and the WAL that both leave; afterwards nothing is due."""
    with closing(SqliteLedger(side.ledger / "ledger.db")) as ledger, closing(Index(side.ledger / "index.db", ledger)) as index:
        while index.follow():
            pass
        took = {
            count: [timed(time.perf_counter, append, ledger, [each for _ in range(count) for each in side.a_study()]) for _ in range(100)]
            for count in (1, 10)
        }
        began, applied = time.process_time(), 0
        while batch := index.follow():
            applied += batch
        seconds = time.process_time() - began
        wal = sum((side.ledger / f"{name}.db-wal").stat().st_size for name in ("ledger", "index"))
        last = ledger.last()
        assert last is not None
        ledger.note_metadata_synced(last.position)
    settle(side.folder, side.environment, mirror=False)
    return {
        "commit of one study, ms": 1000 * statistics.median(took[1]),
        "commit of ten studies, ms": 1000 * statistics.median(took[10]),
        "follower, ms of CPU for 1,000 new entries": 1e6 * seconds / applied,
        "both WALs after 2,200 entries, MB": wal / 1e6,
    }


def start(side: Side) -> Costs:
    with service(side.environment) as (ready_s, _, process):
        return {"`serve` ready, s": ready_s, "`serve`, MB of memory": pss_mb(process.pid)}


def reads(side: Side) -> Costs:
    """What commands do, without the start of Python."""
    with closing(SqliteLedger(side.ledger / "ledger.db")) as ledger:
        studies = [ledger.first_of_studies(side.rng.randrange(side.entries // 2), 1)[0][1] for _ in range(STUDIES)]
        return {
            "`show`, ms of CPU": 1000
            * statistics.median(timed(time.process_time, timeline_of, ledger, side.settings, each) for each in studies),
            "`status`, ms of CPU": 1000 * timed(time.process_time, current_status, ledger, side.settings),
        }


def pages(side: Side) -> Costs:
    known = examples(side.folder)
    with closing(sqlite.connect(f"file:{side.ledger / 'index.db'}?mode=ro", uri=True)) as connection:
        patient = connection.execute("SELECT patient_id FROM dicom_studies WHERE study_instance_uid = ?", (known["usual"],)).fetchone()[0]
    addresses = {
        "home": "/", "list": "/dicom", "list, one modality": "/dicom?modality=MR", "search for a patient": f"/dicom?q={quote(patient)}",
        "search for a common name": "/dicom?q=tanaka", "study of 3 files": f"/dicom/{quote(known['usual'])}",
        "largest study": f"/dicom/{quote(known['big'])}", "pipeline study": f"/studies/{quote(known['study_id'])}",
        "attention": "/attention", "entry": f"/ledger/entries/{side.entries // 2}",
    }  # fmt: skip
    with browsing(side.folder) as (port, pid):
        site = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        found = {f"page: {name}, ms of CPU": page_ms(site, pid, path) for name, path in addresses.items()}
        return {**found, "`browse`, MB of memory": peak_kb(pid) / 1024}


def page_ms(site: http.client.HTTPConnection, pid: int, path: str) -> float:
    """CPU of the process for one page, on average of twenty, after two."""
    for _ in range(2):
        ask(site, path, cookie="")
    before = cpu_ms_of_threads(pid)
    for _ in range(20):
        ask(site, path, cookie="")
    return (cpu_ms_of_threads(pid) - before) / 20


def cpu_ms_of_threads(pid: int) -> float:
    """Finer than the clock ticks of /proc/PID/stat; threads that have ended are left out."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


PARTS = {part.__name__: part for part in (mirror, rebuild, verify, writes, start, reads, pages)}


def timed(clock: Callable[[], float], work: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that it took, by this clock."""
    began = clock()
    work(*arguments)
    return clock() - began


def cpu_of_children() -> float:
    """User and system time of the processes that were waited for."""
    return sum(os.times()[2:4])


def compared(small: Side, large: Side) -> Table:
    table = Table("", ("what", f"{small.entries:,} entries", f"{large.entries:,} entries", "ratio", f"at most {MOST_TIMES}"), place="size")
    for name in small.costs:
        one, other = min(small.costs[name]), min(large.costs[name])
        ratio = other / one
        table.rows.append((name, f"{one:,.2f}", f"{other:,.2f}", f"{ratio:.2f}", "yes" if ratio <= MOST_TIMES else "**no**"))
    return table


def sizes(side: Side) -> Table:
    with closing(sqlite.connect(f"file:{side.ledger / 'index.db'}?mode=ro", uri=True)) as connection:
        [(studies,)] = connection.execute("SELECT count(*) FROM studies").fetchall()
    found = {
        "ledger.db": (side.ledger / "ledger.db").stat().st_size,
        "index.db": (side.ledger / "index.db").stat().st_size,
        "mirror": sum(each.stat().st_size for each in (side.archive / ".ledger").rglob("*") if each.is_file()),
    }
    found["together"] = sum(found.values())
    table = Table("", ("file", f"GB for {studies:,} studies", "GB for a million studies"), place="bytes")
    table.rows = [(name, f"{size / 1e9:.2f}", f"{size / studies / 1e3:.2f}") for name, size in found.items()]
    table.notes.append(f"1 TB for ledger, index and mirror holds {1e12 / (found['together'] / studies) / 1e6:.0f} million studies.")
    return table


if __name__ == "__main__":
    main()
