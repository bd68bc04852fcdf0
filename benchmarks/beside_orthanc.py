"""Instances and frames a second: ours and Orthanc's DICOMweb plugin on the same files, in turns, with the processor time of each."""

from __future__ import annotations

import http.client
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from processes import cpu_s
from results import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.dicomweb.checks import AS_STORED, OCTETS, File, read  # noqa: E402
from tests.dicomweb.servers import PACKAGES, Orthanc, program, versions  # noqa: E402

CONNECTIONS = 4
ROUNDS = 5
TURN = 200
"""Answers of one turn."""

ASKED = {
    "instances as archived": ("", AS_STORED),
    "frames as archived": ("/frames/1", f"{OCTETS}; transfer-syntax=*"),
    "instances, one connection": ("", AS_STORED),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one server did in one turn."""

    a_second: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Site:
    """A running server: its port and its first process."""

    port: int
    pid: int


def beside_orthanc(site: Site, series: str, uids: Sequence[str], folder: Path, files: Path) -> Table:
    """Measure both on the files that ours, at `site`, has already; `files`: the folder of its archive. `series`: path below the service."""
    table = Table(
        f"DICOMweb beside Orthanc: {CONNECTIONS} connections, {len(uids):,} files, median of {ROUNDS} turns of {TURN}",
        ("what", "storage-ledger", "Orthanc", "ratio of rates", "CPU: storage-ledger", "CPU: Orthanc"),
    )
    if program() is None:
        table.notes.append(f"SKIPPED: Orthanc or its plugins are not installed (apt-get install {PACKAGES}).")
        print(table.notes[0])
        return table
    orthanc = Orthanc(folder)
    try:
        sources = (path for path in files.rglob("*.dcm"))
        kept = orthanc.store(_file(path) for path in sources)
        assert len(kept) >= len(uids), f"Orthanc took {len(kept)} files"
        theirs = Site(orthanc.port, orthanc.pid)
        for what, (of, accept) in ASKED.items():
            addresses = [f"/dicom-web/{series}/instances/{uid}{of}" for uid in uids[:TURN]]
            connections = 1 if "one connection" in what else CONNECTIONS
            run = partial(turn, addresses=addresses, accept=accept, connections=connections)
            table.rows.append((what, *compared(run, site, theirs)))
            print(*table.rows[-1], sep="  ", flush=True)
    finally:
        orthanc.close()
    table.notes.append(f"{versions()}, with its defaults; CPU is what the server spends on one answer.")
    return table


def _file(path: Path) -> File:
    data = path.read_bytes()
    ds = read(data)
    return File(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, data)


def compared(run: Callable[[Site], Turn], ours: Site, theirs: Site) -> tuple[str, ...]:
    """Let both take turns; the first of each warms up. The ratio is the median of those of each round."""
    rounds = [(run(ours), run(theirs)) if number % 2 else tuple(reversed((run(theirs), run(ours)))) for number in range(ROUNDS + 1)][1:]
    middle = statistics.median
    rates = (middle(each[side].a_second for each in rounds) for side in (0, 1))
    costs = (middle(each[side].cpu_ms for each in rounds) for side in (0, 1))
    ratio = middle(one.a_second / other.a_second for one, other in rounds)
    return (*(f"{rate:.0f}/s" for rate in rates), f"{ratio:.2f}", *(f"{cost:.2f} ms" for cost in costs))


def turn(site: Site, addresses: Sequence[str], accept: str, connections: int) -> Turn:
    """Get all addresses over kept connections."""
    left = iter(addresses)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def fetch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
        try:
            while not failures:
                with lock:
                    address = next(left, None)
                if address is None:
                    break
                connection.request("GET", address, headers={"Accept": accept})
                answer = connection.getresponse()
                while answer.read(1 << 20):
                    pass
                assert answer.status == 200, (address, answer.status)
        except (OSError, AssertionError, http.client.HTTPException) as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=fetch) for _ in range(connections)]
    before, began = cpu_s(site.pid), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    return Turn(len(addresses) / took, (cpu_s(site.pid) - before) / len(addresses) * 1000)
