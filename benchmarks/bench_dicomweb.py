"""DICOMweb: searches of a large index, and the data sets, files and frames of a series of 1,000 slices.

    scripts/bench dicomweb [--studies 100000] [--slices 1000] [--folder DIR] [--only searches|retrieves|viewers|orthanc]
                           [--rounds 10] [--seconds 10]

A ledger of made-up DICOM studies and its index; an archive of real CT files of 512 x 512 pixels and some 200 elements; the real `browse`
over HTTP on kept connections. --folder keeps them in DIR and uses them again. A search's time is that of its answer: median and 95th
percentile of 40. "Cold": the first request after the start, with an empty cache; every file is read and compared with its SHA-256.
Then a real `serve` that is given 200 files of 32 KB a second (or 70 % of what it reaches), in turns alone and beside four viewers;
each asks what OHIF asks to open a study: searches, the metadata of a series, and 100 frames. See `browse_writers.py`.
Last, the same files in Orthanc's DICOMweb plugin, if it is installed: both take turns, so that the ratio holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import browse_writers
import httpx
import numpy as np
from bench_browse import browsing
from beside_orthanc import CONNECTIONS, Site, beside_orthanc
from many_studies import make
from results import Table, save

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from storage_ledger.system import logs  # noqa: E402
from storage_ledger.system.sqlite import sqlite  # noqa: E402
from tests.support.dicom import described, make_file  # noqa: E402
from tests.support.making import Ledgers  # noqa: E402
from tests.support.pipeline import Pipeline  # noqa: E402

SEARCH_MS = 50
COLD_S, WARM_S = 1.0, 0.1
STUDY = "1.2.826.0.1.3680043.8.498.9"
FRAMES = 100
"""Of a series, at each visit of a viewer."""
JSON = "application/dicom+json"
FRAME = "multipart/related; type=application/octet-stream; transfer-syntax=*"
MISSED = "**no**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--slices", type=int, default=1_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("searches", "retrieves", "viewers", "orthanc"), help="one of the four tables")
    parser.add_argument("--rounds", type=int, default=10, help="of `serve`, half of them beside the viewers")
    parser.add_argument("--seconds", type=float, default=10.0, help="per round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the tables")
    options = parser.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        parts = {
            "searches": lambda: searches(folder / "studies", options.studies),
            "retrieves": lambda: retrieves(folder / "series", options.slices),
            "viewers": lambda: viewers(folder / "viewed", options.slices, options.rounds, options.seconds),
            "orthanc": lambda: orthanc(folder / "series", options.slices, Path(temporary)),
        }
        tables = [run() for name, run in parts.items() if options.only in {None, name}]
    if options.json:
        save(options.json, tables)
    missed = [row[0] for table in tables for row in table.rows if row[-1] == MISSED]
    print("all within their limits" if not missed else f"too slow: {', '.join(missed)}")
    sys.exit(1 if missed else 0)


def searches(folder: Path, studies: int) -> Table:
    ledger = folder / "ledger"
    if not (ledger / "index.db").exists():
        ledger.mkdir(parents=True)
        make(ledger, studies)
    (folder / "archive" / ".ledger").mkdir(parents=True, exist_ok=True)
    with sqlite.connect(f"file:{ledger / 'index.db'}?mode=ro", uri=True) as index:
        patient, name, day, accession, uid = index.execute(
            "SELECT patient_id, patient_name, study_date, accession_number, study_instance_uid FROM dicom_studies LIMIT 1 OFFSET ?",
            (studies // 2,),
        ).fetchone()
    asked = {
        "patient ID": f"studies?PatientID={patient}", "accession number": f"studies?AccessionNumber={accession}",
        "name, beginning": f"studies?PatientName={name[:5]}*", "name, inside": f"studies?PatientName=*{name[2:5]}*",
        "name, fuzzy": f"studies?PatientName={name[:6]}&fuzzymatching=true", "name, of nobody": "studies?PatientName=*zzzq*",
        "day": f"studies?StudyDate={day}", "period and modality": f"studies?StudyDate={day[:6]}01-{day[:6]}31&ModalitiesInStudy=CT,MR",
        "modality": "studies?ModalitiesInStudy=MR", "newest": "studies?limit=101", "page 500": "studies?offset=50000",
        "series of a study": f"studies/{uid}/series", "instances of a study": f"studies/{uid}/instances",
        "newest instances": "instances?limit=101",
    }  # fmt: skip
    table = Table(
        f"DICOMweb: searches of {studies:,} DICOM studies, at most 101 results", ("search", "median", "95 %", "target", "reached")
    )
    with browsing(folder) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}/dicom-web", timeout=60) as client:
        for what, address in asked.items():
            limited = address if "limit=" in address else f"{address}{'&' if '?' in address else '?'}limit=101"
            took = sorted([milliseconds(client, limited) for _ in range(42)][2:])  # two to warm up
            reached = "yes" if took[37] < SEARCH_MS else MISSED
            table.rows.append((what, f"{statistics.median(took):.1f} ms", f"{took[37]:.1f} ms", f"{SEARCH_MS} ms", reached))
            print(*table.rows[-1], sep="  ", flush=True)
    return table


def milliseconds(client: httpx.Client, address: str) -> float:
    began = time.perf_counter()
    answer = client.get(address)
    assert answer.status_code == 200, (address, answer.text)
    return (time.perf_counter() - began) * 1000


def retrieves(folder: Path, slices: int) -> Table:
    if not (folder / "ledger" / "index.db").exists():
        archive(folder, slices)
    series = f"studies/{STUDY}/series/{STUDY}.1"
    table = Table(f"DICOMweb: a series of {slices:,} slices of 512 KB", ("what", "measured", "target", "reached"))
    with browsing(folder) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}/dicom-web", timeout=120) as client:
        for what, target in (("metadata, cold", COLD_S), ("metadata, warm", WARM_S)):
            took = milliseconds(client, f"{series}/metadata") / 1000
            table.rows.append((what, f"{took:.2f} s", f"{target} s", "yes" if took < target else MISSED))
        uids = [each["00080018"]["Value"][0] for each in client.get(f"{series}/instances").json()]
        for what, of, accept in (
            ("instances", "", 'multipart/related; type="application/dicom"; transfer-syntax=*'),
            ("frames", "/frames/1", 'multipart/related; type="application/octet-stream"; transfer-syntax=*'),
        ):
            rate = a_second(port, [f"/dicom-web/{series}/instances/{uid}{of}" for uid in uids], accept)
            table.rows.append((f"{what}, {CONNECTIONS} connections", f"{rate:.0f}/s", "", ""))
    for row in table.rows:
        print(*row, sep="  ", flush=True)
    return table


def viewers(folder: Path, slices: int, rounds: int, seconds: float) -> Table:
    """Measure `serve` alone and beside four viewers of a series, which they have opened once before."""
    if not (folder / "ledger" / "index.db").exists():
        archive(folder, slices)
    table = Table(
        f"DICOMweb: `serve` alone and beside four viewers of a series of {slices:,} slices",
        ("writer", "alone", "beside four viewers", "slower", "target", "reached"),
    )
    with browsing(folder) as (port, _):
        site = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        instances = json.loads(get(site, f"studies/{STUDY}/series/{STUDY}.1/instances", JSON))
        visit = a_study_in_ohif([each["00080018"]["Value"][0] for each in instances])
        visit(site, random.Random(0))
        people = partial(browse_writers.People, port, visit)
        table.rows = browse_writers.serve(browse_writers.a_serve(folder), people, rounds, seconds)
    return table


def a_study_in_ohif(uids: list[str]) -> browse_writers.Visit:
    """What OHIF asks when it opens the study: the list, the study, its series, their metadata, and the frames of neighbouring slices."""
    listed = "studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060%2C00080090%2C00100030"
    series = f"studies/{STUDY}/series/{STUDY}.1"
    data_sets = (
        listed,
        f"{listed}&StudyInstanceUID={STUDY}",
        f"studies/{STUDY}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011",
        f"{series}/metadata",
    )

    def visit(site: http.client.HTTPConnection, rng: random.Random) -> int:
        first = rng.randrange(max(1, len(uids) - FRAMES))
        shown = uids[first : first + FRAMES]
        for address in data_sets:
            get(site, address, JSON)
        for uid in shown:
            get(site, f"{series}/instances/{uid}/frames/1", FRAME)
        return len(data_sets) + len(shown)

    return visit


def get(site: http.client.HTTPConnection, address: str, accept: str) -> bytes:
    """Return the whole answer. Raises if it is an error."""
    site.request("GET", f"/dicom-web/{address}", headers={"Accept": accept})
    answer = site.getresponse()
    body = answer.read()
    assert answer.status == 200, (address, answer.status)
    return body


def orthanc(folder: Path, slices: int, temporary: Path) -> Table:
    if not (folder / "ledger" / "index.db").exists():
        archive(folder, slices)
    series = f"studies/{STUDY}/series/{STUDY}.1"
    with browsing(folder) as (port, pid), httpx.Client(base_url=f"http://127.0.0.1:{port}/dicom-web", timeout=120) as client:
        uids = [each["00080018"]["Value"][0] for each in client.get(f"{series}/instances").json()]
        return beside_orthanc(Site(port, pid), series, uids, temporary / "orthanc", folder / "archive")


def a_second(port: int, addresses: list[str], accept: str) -> float:
    """Get all addresses by several kept connections; return how many a second."""
    left = iter(addresses)
    lock = threading.Lock()

    def fetch() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, headers={"Accept": accept}) as client:
            while True:
                with lock:
                    address = next(left, None)
                if address is None:
                    return
                assert client.get(address).status_code == 200, address

    threads = [threading.Thread(target=fetch) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(addresses) / (time.perf_counter() - began)


def archive(folder: Path, slices: int) -> None:
    """A CT of so many slices, archived by the real parts."""
    folder.mkdir(parents=True)
    pipeline = Pipeline(folder, Ledgers(folder), grace_s=0)
    for number in range(1, slices + 1):
        path = pipeline.uploads / f"slice-{number}.dcm"
        about = {"series_uid": f"{STUDY}.1", "sop_uid": f"{STUDY}.1.{number}", "rows": 512, "columns": 512, "seed": number}
        data_set = make_file(path, study_uid=STUDY, **about, InstanceNumber=number)
        for element in range(150):
            data_set.add_new(
                (0x0019, 0x1000 + element), "LO" if element % 2 else "DS", f"VALUE {element}" if element % 2 else f"{element}.5"
            )
        data_set.add_new((0x0019, 0x0010), "LO", "BENCHMARK")
        noise = np.random.default_rng(number).integers(0, 4096, (512, 512), dtype="<u2")
        data_set.PixelData = noise.tobytes()
        data_set.save_as(path, enforce_file_format=True)
        pipeline.deliver(json.dumps(described(f"slice-{number}", path.name)).encode())
    pipeline.archive_all()


if __name__ == "__main__":
    main()
