"""How long the pages take on a large index: a ledger of made-up DICOM studies, its index, and the real `browse` over HTTP.

    scripts/bench browse [--studies 100000] [--folder DIR] [--rounds 6] [--seconds 10]

DIR is kept and used again when it holds a ledger already. A page's time is that of its HTML, on a kept connection, the median
and the slowest of twenty, after two that warm the caches; "cpu" is what the process spent on each (Linux). Then pictures of CT slices,
512 x 512, each once and again.

Then what four people cost a writer. It is a process of its own that does what `serve` does to the two databases: 200 events/s, a
`described` and an `archived` each, ten events a commit (synchronous=FULL), and an index that follows. The people click on
something every 1 to 4 seconds and load the thumbnails of what they see; rounds with and without them alternate. Told are the
rate that the writer reached, what a commit took, and how far the index and the ledger's WAL were behind. The writer's entries
stay in DIR.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from storage_ledger.core.entries import Kind, NewEntry
from storage_ledger.index.sqlite import Index
from storage_ledger.ledger.engine import sqlite
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger

FAMILY = (
    "Adams",
    "Baker",
    "Clark",
    "Davis",
    "Evans",
    "Frank",
    "Ghosh",
    "Hills",
    "Jones",
    "Klein",
    "Lopez",
    "Mason",
    "Nolan",
    "Patel",
    "Tanaka",
)
GIVEN = ("Ada", "Bela", "Cleo", "Dana", "Eli", "Finn", "Gwen", "Hugo", "Iris", "Jude", "Kira", "Liam", "Mona", "Noah", "Olga", "Yuki")
PLACES = [f"Hospital {letter}" for letter in "ABCDEFGHIJKL"]
KINDS = ("CT", "MR", "US", "CR", "DX", "NM", "PT", "XA", "SR")

LIMITS_MS = {"home": 150, "list": 150, "list, last page": 150, "list, one modality": 150, "search, few": 150, "search, half": 150,
             "study of 3 files": 200, "study of 300 files": 200, "pipeline study": 200, "attention": 200, "entry": 200,
             "first thumbnail": 300, "cached thumbnail": 20}  # fmt: skip
FILE_BYTES = 526_000
SLICES = 40
EVENTS_A_SECOND = 200
EVENTS_A_COMMIT = 10
PEOPLE = 4
MOST_SLOWER = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="of the writer, half of them with people")
    parser.add_argument("--seconds", type=float, default=10.0, help="a round")
    parser.add_argument("--writer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        write(options.folder / "ledger")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "ledger" / "index.db").exists():
            (folder / "ledger").mkdir(parents=True, exist_ok=True)
            make(folder / "ledger", options.studies)
        slices(folder)
        measure(folder, options.rounds, options.seconds)


def make(folder: Path, studies: int) -> None:
    """A ledger of so many DICOM studies, and the index of it; the first of them has 300 files."""
    rng = random.Random(1)
    migrate(folder / "ledger.db")
    ledger = SqliteLedger(folder / "ledger.db")
    began = time.monotonic()
    batch: list[dict] = []
    files = 0
    for number in range(studies):
        for each in a_study(rng, number, 300 if number == 0 else max(1, round(rng.expovariate(1 / 2.5)))):
            batch.append(each)
            files += 1
        if len(batch) >= 2000 or number == studies - 1:
            append(ledger, batch)
            batch = []
    print(f"{studies:,} studies, {files:,} files in the ledger after {time.monotonic() - began:.0f} s", flush=True)
    index = Index(folder / "index.db", ledger)
    began = time.monotonic()
    index.ensure()
    print(f"index made in {time.monotonic() - began:.0f} s, {(folder / 'index.db').stat().st_size / 1e6:.0f} MB", flush=True)
    index.close()
    ledger.close()


def a_study(rng: random.Random, number: int, files: int):
    modality = "CT" if number == 0 else rng.choice(KINDS)
    uid = f"1.2.826.0.1.{number}"
    about = {
        "StudyInstanceUID": uid, "PatientName": f"{rng.choice(FAMILY)}^{rng.choice(GIVEN)}",
        "PatientID": f"P{rng.randrange(50_000):06d}",
        "PatientBirthDate": f"{rng.randrange(1930, 2020)}0{rng.randrange(1, 10)}15", "PatientSex": rng.choice("FM"),
        "StudyDate": f"{rng.randrange(2015, 2027)}0{rng.randrange(1, 10)}1{rng.randrange(10)}", "StudyTime": "101500",
        "StudyDescription": f"{modality} {rng.choice(['chest', 'head', 'knee', 'abdomen', 'spine'])}", "AccessionNumber": f"A{number:07d}",
        "Modality": modality, "InstitutionName": rng.choice(PLACES), "Manufacturer": "ACME",
    }  # fmt: skip
    for at in range(files):
        series = 1 + at // 150
        study_id = f"{number:06d}-{at:04d}"
        yield {
            **about, "study_id": study_id, "SeriesInstanceUID": f"{uid}.{series}", "SeriesNumber": series,
            "SOPInstanceUID": f"{uid}.{series}.{at}", "InstanceNumber": at + 1, "Rows": 512, "Columns": 512,
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        }  # fmt: skip


def append(ledger: SqliteLedger, batch: list[dict]) -> None:
    with ledger.write() as tx:
        for each in batch:
            study_id, name = each["study_id"], f"{each['study_id']}.dcm"
            header = {key: value for key, value in each.items() if key != "study_id"}
            metadata = {"patient_info": {"patient_name": each["PatientName"], "patient_id": each["PatientID"]},
                        "study_info": {"study_instance_uid": each["StudyInstanceUID"], "study_date": each["StudyDate"]},
                        "modality_info": {"modality": each["Modality"]}}  # fmt: skip
            message = {"study_id": study_id, "file_path": f"/app/uploads/{name}", "metadata": metadata}
            payload = {"message": message, "source": "pubsub", "raw_sha256": "0" * 64, "upload_path": name}
            described = tx.append(NewEntry(Kind.DESCRIBED, payload, study_id))
            if each["InstanceNumber"] == 1 and each["StudyInstanceUID"].endswith("77"):
                code = {"code": "upload-missing", "detail": "no such file", "upload_path": name, "by": "projector"}
                tx.append(NewEntry(Kind.QUARANTINED, code, study_id, described.position))
                continue
            file = {"name": name, "original_name": name, "bytes": FILE_BYTES, "sha256": f"{described.position:064x}"}
            payload = {"file": file, "placement": "copied", "metadata_sha256": "b" * 64, "dicom": header, "upload_path": name}
            tx.append(NewEntry(Kind.ARCHIVED, payload | {"software": "0", "host": "h"}, study_id, described.position))


def slices(folder: Path) -> None:
    """CT slices for the first files of the large study; of the size that the ledger says, and other pixels each."""
    rng = np.random.default_rng(1)
    for at in range(SLICES):
        study_id = f"000000-{at:04d}"
        place = folder / "archive" / study_id
        place.mkdir(parents=True, exist_ok=True)
        each = Dataset()
        each.SOPClassUID, each.SOPInstanceUID, each.Modality = "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.0.1.{at}", "CT"
        each.Rows = each.Columns = 512
        each.SamplesPerPixel, each.PhotometricInterpretation, each.PixelRepresentation = 1, "MONOCHROME2", 1
        each.BitsAllocated, each.BitsStored, each.HighBit = 16, 12, 11
        each.RescaleSlope, each.RescaleIntercept, each.WindowCenter, each.WindowWidth = 1, 0, 40, 400
        smooth = np.add.outer(np.linspace(-900, 900, 512), np.linspace(-100, 100, 512))
        each.PixelData = (smooth + rng.normal(0, 20, (512, 512))).astype("<i2").tobytes()
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = place / f"{study_id}.dcm"
        each.save_as(path, enforce_file_format=True)
        missing = FILE_BYTES - path.stat().st_size - 12
        each.add_new(0xFFFCFFFC, "OB", bytes(missing))  # trailing padding
        each.save_as(path, enforce_file_format=True)
        assert path.stat().st_size == FILE_BYTES


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
            slow += [] if writer(folder, port, visits, pictures, rounds, seconds) else ["a writer with four people"]
        finally:
            process.terminate()
    print("all within their limits" if not slow else f"too slow: {', '.join(slow)}")
    sys.exit(1 if slow else 0)


def writer(folder: Path, port: int, visits: list[str], pictures: list[str], rounds: int, seconds: float) -> bool:
    """Whether four people slow a writer by less than a tenth; rounds without and with them alternate."""
    command = [sys.executable, __file__, "--writer", "--folder", str(folder)]
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def a_round(length: float) -> dict[str, float]:
            print(length, file=process.stdin, flush=True)
            return dict(json.loads(process.stdout.readline()))

        a_round(2.0)
        for number in range(rounds):
            crowd = number % 4 in {1, 2}  # without, with, with, without
            people = People(port, visits, pictures) if crowd else None
            one = a_round(seconds)
            clicks = people.leave() if people else 0
            found[crowd].append(one)
            print(f"  {'4 people' if crowd else 'nobody  '}  {one['rate']:6.1f} events/s   commit {one['median_ms']:6.1f} ms, "
                  f"95 % {one['p95_ms']:6.1f} ms   index behind {one['behind']:5.0f}   WAL {one['wal'] / 1e6:5.1f} MB   "
                  f"{clicks:3} answers   load {load()}", flush=True)  # fmt: skip
        process.stdin.close()
    rates = {crowd: statistics.mean(each["rate"] for each in of) for crowd, of in found.items()}
    took = {crowd: statistics.median(each["median_ms"] for each in of) for crowd, of in found.items()}
    slower = 1 - rates[True] / rates[False]
    print(f"a writer at {EVENTS_A_SECOND} events/s: {rates[False]:.1f}/s, with four people {rates[True]:.1f}/s, {slower:+.1%} slower "
          f"(limit {MOST_SLOWER:.0%}); a commit {took[False]:.1f} ms, with them {took[True]:.1f} ms")  # fmt: skip
    return slower < MOST_SLOWER


class People:
    """Four of them, each on a connection that stays open."""

    def __init__(self, port: int, visits: list[str], pictures: list[str]) -> None:
        self._left = threading.Event()
        self._answers = [0] * PEOPLE
        self._threads = [threading.Thread(target=self._one, args=(each, port, visits, pictures)) for each in range(PEOPLE)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> int:
        """How many answers they had."""
        self._left.set()
        for thread in self._threads:
            thread.join()
        return sum(self._answers)

    def _one(self, number: int, port: int, visits: list[str], pictures: list[str]) -> None:
        rng = random.Random(number)
        site = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._left.wait(rng.uniform(0, 2))
        while not self._left.is_set():
            for path in (rng.choice(visits), *rng.sample(pictures, 8)):
                ask(site, path)
                self._answers[number] += 1
            self._left.wait(rng.uniform(1, 4))
        site.close()


def write(folder: Path) -> None:
    """The writer's process: a line with seconds → a round → a line of JSON."""
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger)
    index.ensure()
    stop, bell = threading.Event(), threading.Event()
    follower = threading.Thread(target=index.run, args=(stop, bell))
    follower.start()
    rng = random.Random()
    number = 10_000_000 + rng.randrange(10**9)
    for line in sys.stdin:
        began, commits, took = time.perf_counter(), 0, []
        while (due := began + commits * EVENTS_A_COMMIT / EVENTS_A_SECOND) < began + float(line):
            now = time.perf_counter()
            if now >= began + float(line):
                break
            time.sleep(max(0.0, due - now))
            batch = []
            for _ in range(EVENTS_A_COMMIT):
                number += 1
                batch += a_study(rng, number, 1)
            at = time.perf_counter()
            append(ledger, batch)
            bell.set()
            took.append((time.perf_counter() - at) * 1000)
            commits += 1
        rate = commits * EVENTS_A_COMMIT / max(time.perf_counter() - began, float(line))
        last = ledger.last()
        wal = (folder / "ledger.db-wal").stat().st_size + (folder / "index.db-wal").stat().st_size
        found = {"rate": rate, "median_ms": statistics.median(took), "p95_ms": statistics.quantiles(took, n=20)[-1],
                 "behind": (last.position if last else 0) - index.position, "wal": wal}  # fmt: skip
        print(json.dumps(found), flush=True)
    stop.set()
    bell.set()
    follower.join()


def ask(site: http.client.HTTPConnection, path: str) -> tuple[float, int]:
    """How many ms it took, and how many bytes came."""
    began = time.perf_counter()
    site.request("GET", path, headers={"Accept": "text/html"})
    answer = site.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status)
    assert not answer.getheader("X-Picture-Why"), (path, answer.getheader("X-Picture-Why"))
    return (time.perf_counter() - began) * 1000, len(body)


def load() -> str:
    """Of the machine, in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


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
