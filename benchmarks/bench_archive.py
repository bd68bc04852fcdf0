"""Archiving: the service beside Orthanc, a naive loop and a durable loop, on the same files, in turns, in one run, as paired ratios.

    scripts/bench archive            about six minutes
    scripts/bench archive --full     more files, sizes and rates: about half an hour
    scripts/bench archive --parts latency,idle --workers 0,1,2

ours     `storage-ledger serve` with all its processes, from the first PUBLISH until all is archived, told and removed; everything durable
Orthanc  Debian's package, POST /instances over four kept connections, files synced (index and folders are not); SKIPPED where it is not
         installed, unless --install is given
naive    one thread: copy2, json.dump, a new HTTP connection for each status; nothing durable
floor    one thread: the same files made durable (SHA-256, metadata.json, one syncfs for 64 files), statuses over one kept raw connection;
         no ledger, no messages, no index

Parts: rates (files/s, CPU, memory), latency (from PUBLISH, at given rates), idle (CPU and memory without events). CPU is user and system
time of all processes of each; Valkey, the Status Service (a lean one) and the clients run on the same machine and count for nobody.
Traffic stays on loopback. Absolute rates depend on the machine: compare ratios and CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import model
from kept_connection import KeptConnection
from neighbours import Neighbours, neighbours
from opponents import Floor, Naive, Opponent, Orthanc, Run, orthanc
from ours import Ours
from processes import cpu_s, pss_mb
from results import Table, save
from study_files import Stock, Work
from svg import Panel, svg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.as_user import SERVICE  # noqa: E402

SAME, ACROSS = "same device", "across devices"
RATIO_TARGETS = {
    (32, SAME, "Orthanc"): 0.6, (32, ACROSS, "Orthanc"): 0.9, (512, SAME, "Orthanc"): 1.0, (512, ACROSS, "Orthanc"): 1.0,
    (32, SAME, "floor"): 0.35, (32, ACROSS, "floor"): 0.35, (512, SAME, "floor"): 0.6, (512, ACROSS, "floor"): 0.6,
}  # fmt: skip
"""At least so many times the other's files/s, with one file a study."""
CPU_TARGETS_MS = {32: 2.2, 512: 3.5}
WORKERS_TARGET = 1.6
MEMORY_TARGET_MB, IDLE_TARGET_PERCENT = 250, 1.0
LATENCY_TARGET_RATE, P50_TARGET_MS, P99_TARGET_MS = 100, 15, 60


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory(prefix="storage-ledger-bench-", dir=options.folder) as folder:
        Path(folder).chmod(0o755)  # for a service that runs as another user
        with neighbours(Path(folder)) as there:
            tables = Bench(Path(folder), options, there).run()
    if options.json:
        save(options.json, tables)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="raise the defaults of the following options to the second value shown")
    parser.add_argument("--parts", default="rates,latency,idle")
    parser.add_argument("--opponents", default="Orthanc,naive,floor")
    parser.add_argument("--install", action="store_true", help="install Debian's package `orthanc` if it is not there (as root)")
    parser.add_argument("--workers", help="run ours once with each of these values of WORKERS, such as 0,1,2; default: the setting's own")
    parser.add_argument("--pairs", type=int, help="rounds, in each of which everybody runs once (5; 7)")
    parser.add_argument("--files", help="files a study (1; 1,20)")
    parser.add_argument("--total", type=int, help="files a run (300; 1000)")
    parser.add_argument("--sizes", default="32,512", help="kilobytes (32,512)")
    parser.add_argument("--places", default="same,across")
    parser.add_argument("--across", default="/dev/shm", help="a folder on another device, for uploads")
    parser.add_argument("--folder", help="where everything else is made, on the device to measure; default: the temporary folder")
    parser.add_argument("--rates", help="events/s for the latency (10,100; 10,100,300)")
    parser.add_argument("--seconds", type=float, help="how long each of them lasts (10; 30)")
    parser.add_argument("--latency-kb", type=int, default=32)
    parser.add_argument("--idle-seconds", type=float, default=20)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw files/s against the values of --workers, as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the tables for scripts/bench --write")
    options = parser.parse_args()
    for name, short, full in (
        ("pairs", 5, 7),
        ("files", "1", "1,20"),
        ("total", 300, 1000),
        ("rates", "10,100", "10,100,300"),
        ("seconds", 10, 30),
    ):
        if getattr(options, name) is None:
            setattr(options, name, full if options.full else short)
    return options


class Bench:
    def __init__(self, root: Path, options: argparse.Namespace, there: Neighbours) -> None:
        self.root = root
        self.options = options
        self.status_port = there.status.port
        workers: list[int | None] = [*map(int, options.workers.split(","))] if options.workers else [None]
        self.ours = [Ours(there, each) for each in workers]
        self.targets = Table("archive: targets", ("what", "measured", "target", "reached"))
        self.memory_mb = 0.0
        self.parts: list[tuple[str, model.Parts, float]] = []
        self.panels: list[Panel] = []
        self._runs = itertools.count()

    def run(self) -> list[Table]:
        parts = self.options.parts.split(",")
        print(
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}", flush=True
        )
        tables: list[Table] = []
        if "rates" in parts:
            tables += self.rates()
        if "latency" in parts:
            tables.append(self.latency())
        if "idle" in parts:
            self.idle()
        if self.memory_mb:
            self.target("memory of all processes", self.memory_mb, f"{self.memory_mb:.0f} MB", "<", MEMORY_TARGET_MB, "MB")
        if self.parts:
            tables.append(model.table(self.parts))
            if self.options.plot and self.panels:
                self.options.plot.write_text(svg(self.panels, "WORKERS"))
                tables[-1].notes.append(f"![Files/s with 0, 1 and 2 workers](images/{self.options.plot.name})")
        if len(self.ours) > 1:
            self.targets.notes.append(f"Measured with {self.ours[-1].name.removeprefix('ours, ')}, but for two workers / one.")
        return [*tables, self.targets]

    # rates

    def rates(self) -> list[Table]:
        others = self.others()
        names = [each.name for each in others]
        heads = [f"ours / {name}" for name in names]
        heads += [f"{name}, ms" for name in ("ours", *names)] + [f"{name}, MB" for name in ("ours", "Orthanc") if name in ("ours", *names)]
        title = "archive: files/s and their ratios, medians (lowest to highest); ms of CPU a file, and memory, of all processes"
        rates = Table(title, ("files", "ours", *names, *heads))
        for files in map(int, self.options.files.split(",")):
            for kilobytes in map(int, self.options.sizes.split(",")):
                stock = Stock(self.root / "stock", max(1, self.options.total // files), files, kilobytes)
                for where, uploads in self.places().items() if files == 1 else [(SAME, None)]:
                    self.case(stock, where, uploads, others, rates)
                stock.remove()
        rates.notes.append(f"{self.options.pairs} pairs, {self.options.total} files a run.")
        if "Orthanc" not in names:
            rates.notes.append("Orthanc did not take part.")
        return [rates]

    def others(self) -> list[Opponent]:
        asked = self.options.opponents.split(",")
        found: list[Opponent] = []
        if "Orthanc" in asked:
            match orthanc(install=self.options.install):
                case Orthanc() as it:
                    found.append(it)
                case reason:
                    print(f"SKIPPED Orthanc: {reason}", flush=True)
        return found + [kind(self.status_port) for kind in (Naive, Floor) if kind.name in asked]

    def places(self) -> dict[str, Path | None]:
        """Where the uploads are made: None for the device of all else."""
        across = Path(self.options.across)
        found: dict[str, Path | None] = {SAME: None} if "same" in self.options.places else {}
        if "across" in self.options.places:
            if across.is_dir() and across.stat().st_dev != self.root.stat().st_dev:
                found[ACROSS] = across
            else:
                print(f"SKIPPED across devices: {across} is not on another one", flush=True)
        return found

    def case(self, stock: Stock, where: str, uploads: Path | None, others: list[Opponent], rates: Table) -> None:
        """Everybody in turns, beginning with another one in each round. With many files a study, only the last of `ours`."""
        ours = self.ours if stock.files == 1 else self.ours[-1:]
        everybody = [*ours, *others]
        runs: dict[str, list[Run]] = {each.name: [] for each in everybody}
        for round_ in range(self.options.pairs):
            for each in everybody[round_ % len(everybody) :] + everybody[: round_ % len(everybody)]:
                with self.work(stock, uploads) as work:
                    runs[each.name].append(each.run(work))
        total = len(stock.events)
        a_second = {name: [total / run.seconds for run in each] for name, each in runs.items()}
        ms = {name: statistics.median(1000 * run.cpu_s / total for run in each) for name, each in runs.items()}
        label = f"{stock.kilobytes} KB, {where}" + (f", {stock.files} a study" if stock.files > 1 else "")
        for mine in ours:
            row, shown = label + mine.name.removeprefix("ours"), [mine, *others]
            ratios = {each.name: paired(a_second[mine.name], a_second[each.name]) for each in others}
            speeds = [f"{statistics.median(a_second[each.name]):.0f}" for each in shown]
            costs = [f"{ms[each.name]:.2f}" for each in shown]
            memory = [f"{max(run.pss_mb for run in runs[each.name]):.0f}" for each in shown if isinstance(each, Ours | Orthanc)]
            rates.rows.append((row, *speeds, *(spread(each) for each in ratios.values()), *costs, *memory))
            figures = (f"{each.name.split(',')[0]} {speed}/s {cost} ms" for each, speed, cost in zip(shown, speeds, costs, strict=True))
            print(f"{row:42}", *figures, sep="  ")
            print(" " * 42, *(f"ours/{name} {spread(each)}" for name, each in ratios.items()), sep="  ", flush=True)
        self.memory_mb = max(self.memory_mb, *(run.pss_mb for run in runs[mine.name]))
        if stock.files == 1:
            if mine.workers not in {None, 0}:
                self.parts.append(
                    (f"{label}, WORKERS={mine.workers}", model.Parts.of(runs[mine.name], total), statistics.median(a_second[mine.name]))
                )
            if where == SAME and len(ours) > 1:
                self.panels.append(
                    panel(label, {each.workers: a_second[each.name] for each in ours}, {each.name: a_second[each.name] for each in others})
                )
            self.rate_targets(stock.kilobytes, where, ratios, ms[mine.name])
            if {"ours, WORKERS=1", "ours, WORKERS=2"} <= runs.keys():
                gain = paired(a_second["ours, WORKERS=2"], a_second["ours, WORKERS=1"])
                self.target(f"{label}: two workers / one", statistics.median(gain), spread(gain), "≥", WORKERS_TARGET)

    def rate_targets(self, kilobytes: int, where: str, ratios: dict[str, list[float]], cpu_ms: float) -> None:
        for name, values in ratios.items():
            if target := RATIO_TARGETS.get((kilobytes, where, name)):
                self.target(f"{kilobytes} KB, {where}: ours / {name}", statistics.median(values), spread(values), "≥", target)
        if kilobytes in CPU_TARGETS_MS:
            self.target(f"{kilobytes} KB, {where}: CPU a study", cpu_ms, f"{cpu_ms:.2f} ms", "≤", CPU_TARGETS_MS[kilobytes], "ms")

    # latency and idle

    def latency(self) -> Table:
        table = Table(
            f"archive: latency from PUBLISH, ms, files of {self.options.latency_kb} KB",
            ("events", "archived: median", "95 %", "99 %", "longest", "status received: median", "95 %", "99 %"),
        )
        mine = self.ours[-1]
        for rate in map(int, self.options.rates.split(",")):
            self.latency_at(rate, f"{rate}/s", mine, None, table)
        if LATENCY_TARGET_RATE in map(int, self.options.rates.split(",")):
            if os.geteuid() == 0 and shutil.which("setpriv"):
                self.latency_at(LATENCY_TARGET_RATE, f"{LATENCY_TARGET_RATE}/s as user {SERVICE}", mine, SERVICE, table)
            else:
                print("SKIPPED latency as another user: it takes root and setpriv", flush=True)
        table.notes.append(
            "*Archived*: the time in the entry, taken just before its commit. *Status received*: when the Status Service had it, after the "
            f"commit. *As user {SERVICE}*: `serve` runs as that user, the uploads belong to root."
        )
        return table

    def latency_at(self, rate: int, label: str, mine: Ours, uid: int | None, table: Table) -> None:
        stock = Stock(self.root / "stock", int(rate * self.options.seconds), 1, self.options.latency_kb)
        with self.work(stock, None) as work:
            if uid is not None:
                for folder in (work.archive, work.ledger):
                    os.chown(folder, uid, uid)
                work.uploads.chmod(0o777)
            with mine.serve(work, uid=uid) as served:
                published = served.publish_evenly(stock.events, rate)
                served.wait_until_done()
                recorded = served.query("SELECT study_id, recorded_at FROM entries WHERE kind = 'archived'")
                self.memory_mb = max(self.memory_mb, pss_mb(served.pid))
            with contextlib.closing(KeptConnection(self.status_port)) as connection:
                arrived: dict[str, float] = json.loads(connection.get("/arrivals"))
        stock.remove()
        at = {study: datetime.fromisoformat(text).timestamp() for study, text in recorded}
        archived = [1000 * (at[study] - published[study]) for study in published]
        told = [1000 * (arrived[study] - published[study]) for study in published]
        table.rows.append((label, *(f"{of(archived, part):.1f}" for part in (0.5, 0.95, 0.99, 1)),
                           *(f"{of(told, part):.1f}" for part in (0.5, 0.95, 0.99))))  # fmt: skip
        print(f"latency at {label}: archived {of(archived, 0.5):.1f}, {of(archived, 0.95):.1f}, {of(archived, 0.99):.1f} ms; "
              f"status {of(told, 0.5):.1f}, {of(told, 0.95):.1f}, {of(told, 0.99):.1f} ms (50, 95, 99 %)", flush=True)  # fmt: skip
        if rate == LATENCY_TARGET_RATE:
            for part, target in ((0.5, P50_TARGET_MS), (0.99, P99_TARGET_MS)):
                found = of(archived, part)
                self.target(f"from PUBLISH to archived at {label}: {100 * part:.0f} %", found, f"{found:.1f} ms", "<", target, "ms")

    def idle(self) -> None:
        stock = Stock(self.root / "stock", 0, 1, 32)
        for mine in self.ours:
            with self.work(stock, None) as work, mine.serve(work) as served:
                time.sleep(10)  # until the start is over, and what it postpones
                before, began = cpu_s(served.pid), time.perf_counter()
                time.sleep(self.options.idle_seconds)
                percent = 100 * (cpu_s(served.pid) - before) / (time.perf_counter() - began)
                print(
                    f"idle for {self.options.idle_seconds:.0f} s, {mine.name}: {percent:.2f} % of a processor, {pss_mb(served.pid):.0f} MB",
                    flush=True,
                )
        stock.remove()
        self.target("idle: CPU of all processes", percent, f"{percent:.2f} %", "<", IDLE_TARGET_PERCENT, "% of a processor")

    # both

    @contextlib.contextmanager
    def work(self, stock: Stock, uploads: Path | None) -> Iterator[Work]:
        root = self.root / f"run-{next(self._runs)}"
        work = Work(stock, root, root / "uploads" if uploads is None else uploads / f"storage-ledger-bench-{os.getpid()}")
        try:
            yield work
        finally:
            work.remove()

    def target(self, what: str, found: float, text: str, sign: str, target: float, unit: str = "") -> None:
        reached = {"≥": found >= target, "≤": found <= target, "<": found < target}[sign]
        self.targets.rows.append((what, text, f"{sign} {target:g} {unit}".rstrip(), "yes" if reached else "**no**"))


def panel(label: str, ours: dict[int, list[float]], others: dict[str, list[float]]) -> Panel:
    """Files/s against workers; the others as level lines."""
    lines = {name: [(workers, statistics.median(rates)) for workers in (0, max(ours))] for name, rates in others.items()}
    return Panel(f"Files/s: {label}", {"ours": [(workers, statistics.median(rates)) for workers, rates in ours.items()], **lines})


def paired(mine: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def of(values: list[float], part: float) -> float:
    """That quantile, as the value of an element."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


if __name__ == "__main__":
    main()
