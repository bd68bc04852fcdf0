"""Others who archive the same files, each with its whole CPU time: Orthanc, a naive loop, and a durable loop without a ledger."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kept_connection import KeptConnection, answers
from processes import cpu_s, pss_mb
from study_files import Event, Work

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.valkey import free_port  # noqa: E402
from tests.support.waiting import until  # noqa: E402

BATCH = 64
CONNECTIONS = 4
SETTLE_S = 0.5
"""Wait before the CPU time is read, so that what runs on behind the last answer (an index, a log) counts as well."""

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took. `cpu_s`: user and system time of all the opponent's processes; `pss_mb`: their memory at its end.

    Of `serve` only: `first_cpu_s` of the process that starts the workers; `lock_s`, how long the ledger's write lock was held.
    """

    seconds: float
    cpu_s: float
    pss_mb: float = 0.0
    first_cpu_s: float = 0.0
    lock_s: float = 0.0


class Opponent(Protocol):
    """Archives all events of a run, in fresh folders."""

    name: str

    def run(self, work: Work) -> Run: ...


class Naive:
    """What somebody writes in ten lines: copy2, json.dump, a new HTTP connection for each status. Nothing is durable."""

    name = "naive"

    def __init__(self, status_port: int) -> None:
        self._port = status_port

    def run(self, work: Work) -> Run:
        uploads, archive = str(work.uploads), str(work.archive)
        headers = {"Content-Type": "application/json"}
        began, before = time.perf_counter(), time.process_time()
        for event in work.stock.events:
            folder = f"{archive}/{event.study_id}"
            os.makedirs(folder, exist_ok=True)
            shutil.copy2(f"{uploads}/{event.name}", f"{folder}/{event.name}")
            with open(f"{folder}/metadata.json", "w") as out:
                json.dump(event.metadata, out)
            os.remove(f"{uploads}/{event.name}")
            connection = http.client.HTTPConnection("127.0.0.1", self._port)
            connection.request("POST", f"/status/{event.study_id}", archived(folder), headers)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            assert answer.status == 200
        return Run(time.perf_counter() - began, time.process_time() - before)


class Floor:
    """The least that makes the same promise about the files: SHA-256 while copying, metadata.json, one `syncfs` for 64 files, only then
    the uploads removed and the statuses sent, one a study, over one kept raw connection. No ledger, no messages, no index.
    """

    name = "floor"

    def __init__(self, status_port: int) -> None:
        self._port = status_port

    def run(self, work: Work) -> Run:
        uploads, archive, events = str(work.uploads), str(work.archive), work.stock.events
        began, before = time.perf_counter(), time.process_time()
        device = os.open(archive, os.O_RDONLY)
        with contextlib.closing(KeptConnection(self._port)) as connection:
            digests: dict[str, dict[str, str]] = {}
            for i in range(0, len(events), BATCH):
                batch = events[i : i + BATCH]
                studies = {event.study_id: event for event in batch}
                for study_id in studies:
                    if study_id not in digests:
                        digests[study_id] = {}
                        os.mkdir(f"{archive}/{study_id}")
                for event in batch:
                    digests[event.study_id][event.name] = copied(f"{uploads}/{event.name}", f"{archive}/{event.study_id}/{event.name}")
                for study_id, event in studies.items():
                    written(f"{archive}/{study_id}/metadata.json", json.dumps({**event.metadata, "files": digests[study_id]}).encode())
                if libc.syncfs(device) != 0:
                    raise OSError(ctypes.get_errno(), "syncfs")
                for event in batch:
                    os.unlink(f"{uploads}/{event.name}")
                for study_id in studies:
                    connection.post(f"/status/{study_id}", archived(f"{archive}/{study_id}").encode())
        os.close(device)
        return Run(time.perf_counter() - began, time.process_time() - before)


class Orthanc:
    """Debian's Orthanc with its index and storage on the same device as our archive, files synced: POST /instances over four kept
    connections.

    It promises less: when it answers, neither its folders nor its index are durable, it makes no metadata.json, tells no Status
    Service, and the uploads stay. Its client's time is not counted, as our publisher's is not.
    """

    name = "Orthanc"

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, work: Work) -> Run:
        port = free_port()
        settings = {
            "Name": "bench",
            "StorageDirectory": str(work.archive),
            "IndexDirectory": str(work.ledger),
            "StorageCompression": False,
            "SyncStorageArea": True,
            "DicomServerEnabled": False,
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "OverwriteInstances": False,
            "Plugins": [],
        }
        config = work.root / "orthanc.json"
        config.write_text(json.dumps(settings))
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen([self._program, str(config)], stdout=log, stderr=log, cwd=work.root)
            try:
                until(lambda: answers(process, port, "/system"), 60, what="Orthanc is ready", every_s=0.05)
                send(port, work.uploads, work.stock.warm_up)
                time.sleep(SETTLE_S)
                before, began = cpu_s(process.pid), time.perf_counter()
                send(port, work.uploads, work.stock.events)
                seconds = time.perf_counter() - began
                time.sleep(SETTLE_S)
                run = Run(seconds, cpu_s(process.pid) - before, pss_mb(process.pid))
                with contextlib.closing(KeptConnection(port)) as connection:
                    kept = json.loads(connection.get("/statistics"))["CountInstances"]
                assert kept == len(work.stock.events) + len(work.stock.warm_up), f"Orthanc kept {kept} instances"
                return run
            finally:
                process.terminate()
                process.wait(60)


def orthanc(*, install: bool) -> Orthanc | str:
    """Orthanc, or the reason why it cannot take part."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    command = ["apt-get", "install", "-y", "--no-install-recommends", "orthanc"]
    if shutil.which("Orthanc", path=places) is None and install:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            return "it can be installed only as root, where there is apt-get"
        print("installing Debian's orthanc; where systemd runs, this also starts its service", flush=True)
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            return f"`{' '.join(command)}` failed"
    program = shutil.which("Orthanc", path=places)
    return Orthanc(program) if program else "it is not installed: --install installs Debian's package `orthanc`"


def send(port: int, uploads: Path, events: list[Event]) -> None:
    """POST every file to Orthanc, over four connections with a thread each."""
    left, failures = deque(str(uploads / event.name) for event in events), deque[BaseException]()

    def sender() -> None:
        try:
            with contextlib.closing(KeptConnection(port)) as connection:
                while not failures:
                    connection.post_file("/instances", left.popleft(), "application/dicom")
        except IndexError:
            pass  # none left
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=sender) for _ in range(CONNECTIONS)]
    for step in itertools.chain((each.start for each in threads), (each.join for each in threads)):
        step()
    if failures:
        raise failures[0]


def archived(folder: str) -> str:
    """The body of the status: all that we put into it is strings that need no escape."""
    return f'{{"status": "archived", "details": {{"archive_path": "{folder}", "metadata_file": "{folder}/metadata.json"}}}}'


def copied(source: str, target: str) -> str:
    """Copy a file; return its SHA-256."""
    descriptor = os.open(source, os.O_RDONLY)
    data = os.read(descriptor, os.fstat(descriptor).st_size)
    os.close(descriptor)
    written(target, data)
    return hashlib.sha256(data).hexdigest()


def written(target: str, data: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    done = os.write(descriptor, data)
    os.close(descriptor)
    assert done == len(data)
