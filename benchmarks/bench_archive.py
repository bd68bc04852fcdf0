"""Archiving rate: the service beside a naive loop and beside a durable loop without a ledger, in one run, as paired ratios.

    scripts/bench archive [--studies 300] [--rounds 3] [--sizes 32,512] [--across DIR]

ours   `storage-ledger serve` as a process, from the first PUBLISH to the last status sent, everything durable
naive  one thread: copy2, json.dump, a new HTTP connection for each status; nothing durable
floor  the same files written with SHA-256 and metadata.json, one syncfs per batch of 64, the statuses over one kept
       connection, by a bare loop: no ledger, no messages, no index

The Status Service and Valkey run on the same machine in all three. Traffic stays on loopback, files in a temporary folder.
Absolute rates depend on the machine: compare ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from results import Table, save  # noqa: E402

from tests.support.dicom import described, make_file  # noqa: E402
from tests.support.valkey import Valkey, free_port  # noqa: E402

TARGET_OF_FLOOR = 0.4

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="32,512", help="kilobytes")
    parser.add_argument("--across", default="/dev/shm", help="a folder on another device, for uploads")
    parser.add_argument("--latency-events", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the tables for scripts/bench --write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storage-ledger-bench-") as folder:
        bench = Bench(Path(folder), options)
        try:
            tables = bench.run()
        finally:
            bench.close()
    if options.json:
        save(options.json, tables)


class Bench:
    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root = root
        self.options = options
        (root / "valkey").mkdir()
        self.valkey = Valkey(root / "valkey")
        self.valkey.start()
        self.status_port = free_port()
        self.status = subprocess.Popen(
            [sys.executable, "-m", "storage_ledger", "status-service", "--port", str(self.status_port)],
            env={**os.environ, "REDIS_URL": self.valkey.url},
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{self.status_port}"
        wait(lambda: healthy(self.url + "/health"))

    def close(self) -> None:
        self.status.terminate()
        self.status.wait()
        self.valkey.stop()

    def run(self) -> list[Table]:
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        rates = Table(
            "archive: studies/s, each a pipeline study of one file",
            (
                "files",
                "ours",
                "naive",
                "floor",
                "ours / naive (lowest to highest)",
                "ours / floor (lowest to highest)",
                "target",
                "reached",
            ),
        )
        across = Path(self.options.across)
        places = {"same device": None}
        if across.is_dir() and across.stat().st_dev != self.root.stat().st_dev:
            places["across devices"] = across
        else:
            print(f"SKIPPED across devices: {across} is not on another one")
        for kilobytes in map(int, self.options.sizes.split(",")):
            for where, uploads in places.items():
                rates.rows.append(self.compare(kilobytes, where, uploads))
        rates.notes.append(self.latency())
        return [rates]

    def compare(self, kilobytes: int, where: str, uploads: Path | None) -> tuple[str, ...]:
        rates: dict[str, list[float]] = {"ours": [], "naive": [], "floor": []}
        peak = 0
        for round_ in range(self.options.rounds):
            order = ["ours", "naive", "floor"]
            for name in order[round_ % 3 :] + order[: round_ % 3]:
                work = Work(self.root / f"{name}-{round_}", uploads, self.options.studies, kilobytes)
                try:
                    seconds, kb = getattr(self, name)(work)
                    rates[name].append(self.options.studies / seconds)
                    peak = max(peak, kb)
                finally:
                    work.remove()
        ratios = {other: [a / b for a, b in zip(rates["ours"], rates[other], strict=True)] for other in ("naive", "floor")}
        rate = {name: f"{statistics.median(values):.0f}" for name, values in rates.items()}
        print(
            f"{kilobytes:4} KB {where:14}  ours {rate['ours']}/s  naive {rate['naive']}/s  floor {rate['floor']}/s   "
            f"ours/floor {spread(ratios['floor'])}  ours/naive {spread(ratios['naive'])}   peak {peak / 1024:.0f} MB",
            flush=True,
        )
        reached = "yes" if statistics.median(ratios["floor"]) >= TARGET_OF_FLOOR else "**no**"
        return (
            f"{kilobytes} KB, {where}", rate["ours"], rate["naive"], rate["floor"], spread(ratios["naive"]), spread(ratios["floor"]),
            f"{TARGET_OF_FLOOR} of the floor", reached,
        )  # fmt: skip

    def serve(self, work: Work) -> tuple[subprocess.Popen[bytes], str]:
        port = free_port()
        channel = f"bench-{port}"
        environment = {
            **os.environ,
            "REDIS_URL": self.valkey.url,
            "DESCRIBED_CHANNEL": channel,
            "STATUS_SERVICE_URL": self.url,
            "UPLOADS_PATH": str(work.uploads),
            "ARCHIVE_PATH": str(work.archive),
            "LEDGER_PATH": str(work.ledger),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "LOG_LEVEL": "WARNING",
        }
        process = subprocess.Popen([sys.executable, "-m", "storage_ledger", "serve"], env=environment)
        wait(lambda: healthy(f"http://127.0.0.1:{port}/readyz"))
        return process, channel

    def ours(self, work: Work) -> tuple[float, int]:
        process, channel = self.serve(work)
        try:
            client = self.valkey.client()
            began = time.perf_counter()
            for message in work.messages:
                client.publish(channel, json.dumps(message))
            wait(lambda: work.sent() >= len(work.messages) and not any(work.uploads.iterdir()), every_s=0.02)
            seconds = time.perf_counter() - began
            client.close()
            return seconds, peak_kb(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def naive(self, work: Work) -> tuple[float, int]:
        began = time.perf_counter()
        for message in work.messages:
            source = work.uploads / Path(message["file_path"]).name
            folder = work.archive / message["study_id"]
            folder.mkdir()
            shutil.copy2(source, folder / source.name)
            with (folder / "metadata.json").open("w") as out:
                json.dump({**message["metadata"], "study_id": message["study_id"]}, out, indent=2)
            source.unlink()
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.status_port)) as connection:
                post_archived(connection, message["study_id"], folder)
        return time.perf_counter() - began, 0

    def floor(self, work: Work) -> tuple[float, int]:
        began = time.perf_counter()
        device = os.open(work.archive, os.O_RDONLY)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.status_port)) as connection:
            for i in range(0, len(work.messages), 64):
                batch = work.messages[i : i + 64]
                for message in batch:
                    source = work.uploads / Path(message["file_path"]).name
                    folder = work.archive / message["study_id"]
                    folder.mkdir()
                    data = source.read_bytes()
                    digest = hashlib.sha256(data).hexdigest()
                    (folder / source.name).write_bytes(data)
                    (folder / "metadata.json").write_text(json.dumps({**message["metadata"], "sha256": digest}))
                if libc.syncfs(device) != 0:
                    raise OSError(ctypes.get_errno(), "syncfs")
                for message in batch:
                    (work.uploads / Path(message["file_path"]).name).unlink()
                for message in batch:
                    post_archived(connection, message["study_id"], work.archive / message["study_id"])
        os.close(device)
        return time.perf_counter() - began, 0

    def latency(self) -> str:
        """Measure the time from PUBLISH to the status sent, at ten events a second."""
        work = Work(self.root / "latency", None, self.options.latency_events, 512)
        process, channel = self.serve(work)
        try:
            client = self.valkey.client()
            published = {}
            for message in work.messages:
                published[message["study_id"]] = time.time()
                client.publish(channel, json.dumps(message))
                time.sleep(0.1)
            wait(lambda: work.sent() >= len(work.messages))
            client.close()
            rows = work.query("SELECT study_id, recorded_at FROM entries WHERE kind = 'status-sent'")
            delays = sorted(1000 * (datetime.fromisoformat(at).timestamp() - published[study]) for study, at in rows)
            at = lambda part: delays[min(len(delays) - 1, int(part * len(delays)))]  # noqa: E731
            text = f"median {at(0.5):.0f} ms, 95th percentile {at(0.95):.0f} ms, longest {delays[-1]:.0f} ms"
            print(f"latency at 10 events/s, 512 KB: {text}")
            return (
                f"Latency from PUBLISH to the status sent, at 10 events/s of 512 KB: {text}. "
                f"Peak memory of `serve`: {peak_kb(process.pid) / 1024:.0f} MB."
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Work:
    """Uploads full of fresh files, an empty archive, an empty ledger, and the messages."""

    def __init__(self, root: Path, uploads: Path | None, studies: int, kilobytes: int) -> None:
        self.root = root
        self.uploads = (uploads / f"storage-ledger-bench-{os.getpid()}") if uploads else root / "uploads"
        self.archive = root / "archive"
        self.ledger = root / "ledger"
        for folder in (self.uploads, self.archive, self.ledger):
            folder.mkdir(parents=True)
        side = int((kilobytes * 1024 / 2) ** 0.5)

        def one(i: int) -> dict:
            study_id = f"study-{i:05d}"
            path = self.uploads / f"{study_id}.dcm"
            return described(study_id, f"/app/uploads/{path.name}", make_file(path, rows=side, columns=side, seed=i))

        with ThreadPoolExecutor(2) as pool:
            self.messages = list(pool.map(one, range(studies)))
        os.sync()  # what was made is not what is measured

    def query(self, sql: str) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self.ledger / 'ledger.db'}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def sent(self) -> int:
        return self.query("SELECT count(*) FROM entries WHERE kind = 'status-sent'")[0][0]

    def remove(self) -> None:
        shutil.rmtree(self.uploads)
        shutil.rmtree(self.root)


def post_archived(connection: http.client.HTTPConnection, study_id: str, folder: Path) -> None:
    details = {"archive_path": str(folder), "metadata_file": str(folder / "metadata.json")}
    body = json.dumps({"status": "archived", "details": details})
    connection.request("POST", f"/status/{study_id}", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def peak_kb(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(row.split()[1]) for row in rows if row.startswith("VmHWM")), 0)


def healthy(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def wait(predicate, limit_s: float = 300, every_s: float = 0.05) -> None:
    deadline = time.monotonic() + limit_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(every_s)


if __name__ == "__main__":
    main()
