"""A large ledger: time to rebuild the index, beside a bare scan of the same rows, and time until `serve` is ready.

    scripts/bench replay [--entries 1000000] [--rounds 3] [--folder DIR] [--parts rebuild,serve]

scan      one cursor over the same columns of the same rows: nothing parsed, nothing checked
rebuild   `Index.rebuild`: every payload and header checked against its hash, all tables, indexes and search
serve     from process start to 200 from /readyz, on that ledger with its index and mirror, and on an empty ledger

--folder keeps the ledger there and uses it again. Each measurement is a process of its own; CPU seconds and memory include
its child processes. Absolute figures depend on the machine and its load: compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

TARGET_A_SECOND = 60_000
TARGET_READY_S = 2.0
NAMES = {"scan": "bare scan of the rows", "rebuild": "rebuild of the index, every hash checked"}

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from results import Table, save  # noqa: E402

from storage_ledger.domain.entries import faults  # noqa: E402
from storage_ledger.index.follower import Index  # noqa: E402
from storage_ledger.index.rebuild.processes import RebuildProcesses  # noqa: E402
from storage_ledger.ledger.entry_rows import COLUMNS  # noqa: E402
from storage_ledger.ledger.sqlite import SqliteLedger  # noqa: E402
from storage_ledger.system.sqlite import sqlite  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--parts", default="rebuild,serve")
    parser.add_argument("--measure", choices=["scan", "rebuild", "check"], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the tables for scripts/bench --write")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="storage-ledger-bench-") as scratch:
        folder = (options.folder or Path(scratch)) / "ledger"
        folder.mkdir(parents=True, exist_ok=True)
        tables = [prepare(folder, options.entries)]
        if "rebuild" in options.parts:
            compare(folder, options.rounds, tables[0])
        if "serve" in options.parts:
            tables.append(serving(folder, options.rounds))
    if options.json:
        save(options.json, tables)


def prepare(folder: Path, entries: int) -> Table:
    from tests.support.large_ledger import make  # not above: it would count as the memory of what is measured

    path = folder / "ledger.db"
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite.sqlite_version}")
    if not path.exists():
        began = time.perf_counter()
        make(path, entries)
        print(f"made in {time.perf_counter() - began:.0f} s")
    found = measure("check", folder)
    print(
        f"{found['entries']:,} entries, {path.stat().st_size / 1e6:,.0f} MB; each checked by itself, {found['faults']} faults", flush=True
    )
    assert not found["faults"]
    return Table(
        f"replay: a ledger of {found['entries']:,} entries ({path.stat().st_size / 1e6:,.0f} MB)",
        ("what", "entries/s, median", "lowest to highest", "CPU", "peak memory", "target", "reached"),
    )


def compare(folder: Path, rounds: int, table: Table) -> None:
    measure("scan", folder)  # brings it into memory: both read from there
    results: dict[str, list[dict]] = {"scan": [], "rebuild": []}
    for round_ in range(rounds):
        for name in ("scan", "rebuild") if round_ % 2 else ("rebuild", "scan"):
            results[name].append(measure(name, folder))
    for name, found in results.items():
        rates = sorted(each["entries"] / each["seconds"] for each in found)
        print(
            f"{name:8} {statistics.median(rates):9,.0f} entries/s ({', '.join(f'{rate:,.0f}' for rate in rates)})   "
            f"CPU {statistics.median(each['cpu_s'] for each in found):5.1f} s   peak {max(each['peak_kb'] for each in found) / 1024:.0f} MB"
        )
        target, reached = ("", "")
        if name == "rebuild":
            target, reached = f"{TARGET_A_SECOND:,}/s", "yes" if statistics.median(rates) >= TARGET_A_SECOND else "**no**"
        table.rows.append((
            NAMES[name], f"{statistics.median(rates):,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}",
            f"{statistics.median(each['cpu_s'] for each in found):.1f} s", f"{max(each['peak_kb'] for each in found) / 1024:.0f} MB",
            target, reached,
        ))  # fmt: skip
    pairs = list(zip(results["rebuild"], results["scan"], strict=True))
    text = (
        f"Rebuild / scan: {statistics.median(a['seconds'] / b['seconds'] for a, b in pairs):.1f} times the time, "
        f"{statistics.median(a['cpu_s'] / b['cpu_s'] for a, b in pairs):.1f} times the CPU."
    )
    print(text, flush=True)
    table.notes.append(text)


def measure(name: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_kb(process.pid))
            time.sleep(0.25)
        assert process.stdout is not None
        found: dict = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 0
    return found | {"peak_kb": max(peak, found.get("peak_kb", 0))}


def memory_kb(pid: int) -> int:
    """Return the memory of a process and its descendants now; pages that they share are counted once."""
    try:
        started = [each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has ended
        return 0
    return own + sum(memory_kb(int(each)) for each in started)


@contextmanager
def measured(entries: dict):
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    yield
    entries |= {"seconds": time.perf_counter() - began, "cpu_s": sum(os.times()[:4]) - cpu}
    entries["peak_kb"] = peak_kb(os.getpid())  # since its own start; getrusage would include the parent's peak


def scan(folder: Path) -> dict:
    found: dict = {"entries": 0}
    with closing(sqlite.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as connection, measured(found):
        for _ in connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY position"):
            found["entries"] += 1
    return found


def rebuild(folder: Path) -> dict:
    for suffix in ("", "-wal", "-shm"):
        (folder / f"index.db{suffix}").unlink(missing_ok=True)
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger, processes=RebuildProcesses.of(folder / "ledger.db"))
    found: dict = {}
    with measured(found):
        found["entries"] = index.rebuild()
    assert index.damaged == 0
    index.close()
    ledger.close()
    return found


def check(folder: Path) -> dict:
    ledger = SqliteLedger(folder / "ledger.db")
    position = found = 0
    while some := ledger.read(position, 1000):
        assert [entry.position for entry in some] == list(range(position + 1, position + 1 + len(some)))
        found += sum(1 for entry in some if faults(entry))
        position = some[-1].position
    ledger.close()
    return {"entries": position, "faults": found}


MEASURES = {"scan": scan, "rebuild": rebuild, "check": check}


def serving(folder: Path, rounds: int) -> Table:
    """Start on the large ledger and on an empty one alternately; then run the commands beside the running service."""
    from tests.support.status_server import StatusServer
    from tests.support.valkey import Valkey

    table = Table("replay: the service and commands on that ledger", ("what", "seconds", "target", "reached"))
    others: list[str] = []
    archive, status = folder.parent / "archive", StatusServer()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        valkey = Valkey(root)
        valkey.start()
        common = {**os.environ, "REDIS_URL": valkey.url, "STATUS_SERVICE_URL": status.url, "HTTP_HOST": "127.0.0.1", "LOG_LEVEL": "WARNING"}
        large = {
            "LEDGER_PATH": str(folder),
            "ARCHIVE_PATH": str(archive),
            "UPLOADS_PATH": str(root / "uploads"),
            "RECONCILE_SECONDS": "300",
        }
        empty = {**large, "LEDGER_PATH": str(root / "empty"), "ARCHIVE_PATH": str(root / "archive")}
        (root / "uploads").mkdir()
        try:
            if not (folder / "index.db").exists():
                measure("rebuild", folder)
            if not archive.exists():
                archive.mkdir()
                took = command({**common, **large}, "replay", "--mirror")
                print(f"replay --mirror: {took:.1f} s")
                others.append(f"`replay --mirror` {took:.1f}")
            seconds: dict[str, list[float]] = {"empty": [], "large": []}
            for _ in range(rounds):
                for name, more in (("empty", empty), ("large", large)):
                    with service({**common, **more}) as (ready_s, _, _):
                        seconds[name].append(ready_s)
            print("serve is ready: " + ", ".join(f"{name} ledger {statistics.median(each):.2f} s" for name, each in seconds.items()))
            ready = {name: statistics.median(each) for name, each in seconds.items()}
            reached = "yes" if ready["large"] <= TARGET_READY_S else "**no**"
            table.rows.append(("`serve` ready", f"{ready['large']:.2f}", f"{TARGET_READY_S:.0f}", reached))
            others.append(f"`serve` ready on an empty ledger {ready['empty']:.2f}")
            with service({**common, **large}) as (_, url, process):
                began = time.perf_counter()
                httpx.get(f"{url}/metrics").raise_for_status()
                took = time.perf_counter() - began
                print(f"/metrics: {took:.3f} s; peak of serve {peak_kb(process.pid) / 1024:.0f} MB")
                others += [f"`GET /metrics` {took:.3f}", *commands({**common, **large}, folder)]
                peak = f"Peak memory of `serve` on that ledger: {peak_kb(process.pid) / 1024:.0f} MB."
                table.notes.append(f"Seconds of others: {', '.join(others)}. {peak}")
        finally:
            valkey.stop()
            status.close()
    return table


def commands(environment: dict, folder: Path) -> list[str]:
    with closing(sqlite.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as connection:
        last = connection.execute("SELECT max(position) FROM entries").fetchone()[0]
        study = connection.execute("SELECT study_id FROM entries WHERE position > ? AND study_id IS NOT NULL", (last // 2,)).fetchone()[0]
    rows = []
    for words in (["--version"], ["status"], ["show", study], ["quarantine", "list"]):
        took = command(environment, *words)
        print(f"storage-ledger {' '.join(words):24.24} {took:.2f} s", flush=True)
        rows.append(f"`{' '.join(words[:1] if words[0] == 'show' else words)}` {took:.2f}")
    return rows


def command(environment: dict, *words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "storage_ledger", *words], env=environment, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


@contextmanager
def service(environment: dict):
    """Start `serve` and yield the seconds until /readyz said 200, its address and its process."""
    from tests.support.valkey import free_port

    url = f"http://127.0.0.1:{(port := free_port())}"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "storage_ledger", "serve"], env={**environment, "HTTP_PORT": str(port)})
    try:
        while not ready(url):
            assert process.poll() is None
            time.sleep(0.01)
        yield time.perf_counter() - began, url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def peak_kb(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(row.split()[1]) for row in rows if row.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
