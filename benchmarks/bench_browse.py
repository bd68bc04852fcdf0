"""How long the pages take on a large index: a ledger of made-up DICOM studies, its index, and the real `browse` over HTTP.

    scripts/bench browse [--studies 100000] [--folder DIR]

DIR is kept and used again when it holds a ledger already. A page's time is that of its HTML, on a kept connection, the median
and the slowest of twenty, after two that warm the caches; "cpu" is what the process spent on each (Linux).
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

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
             "study of 3 files": 200, "study of 300 files": 200, "pipeline study": 200, "attention": 200, "entry": 200}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "index.db").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, options.studies)
        measure(folder)


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
            file = {"name": name, "original_name": name, "bytes": 526_000, "sha256": f"{described.position:064x}"}
            payload = {"file": file, "placement": "copied", "metadata_sha256": "b" * 64, "dicom": header, "upload_path": name}
            tx.append(NewEntry(Kind.ARCHIVED, payload | {"software": "0", "host": "h"}, study_id, described.position))


def measure(folder: Path) -> None:
    connection = sqlite.connect(f"file:{folder / 'index.db'}?mode=ro", uri=True)
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
    on = f"SQLite {sqlite.sqlite_version}, Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{studies:,} DICOM studies, {files:,} files; {on}")
    command = [sys.executable, "-m", "storage_ledger", "browse", "--port", "0", "--no-login"]
    with subprocess.Popen(command, env={**os.environ, "LEDGER_PATH": str(folder)}, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = next(int(found[1]) for line in process.stderr if (found := re.search(r"Browse on http://[^:]+:(\d+)/", line)))
            http_connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            slow = [name for name, path in pages.items() if not told(name, *times(http_connection, path, process.pid))]
        finally:
            process.terminate()
    print("all within their limits" if not slow else f"too slow: {', '.join(slow)}")
    sys.exit(1 if slow else 0)


def times(connection: http.client.HTTPConnection, path: str, pid: int) -> tuple[float, float, float, int]:
    found = []
    spent = 0.0
    for number in range(22):
        spent = cpu_ms(pid) if number == 2 else spent
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept": "text/html"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status)
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found[2:]), max(found[2:]), (cpu_ms(pid) - spent) / 20, len(body)


def cpu_ms(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def told(name: str, median: float, slowest: float, cpu: float, size: int) -> bool:
    within = median <= LIMITS_MS[name]
    verdict = "" if within else "   TOO SLOW"
    took = f"{median:8.1f} ms   slowest {slowest:8.1f} ms   cpu {cpu:5.1f} ms"
    print(f"{name:<22}{took}   {size / 1000:6.0f} kB   limit {LIMITS_MS[name]} ms{verdict}")
    return within


if __name__ == "__main__":
    main()
