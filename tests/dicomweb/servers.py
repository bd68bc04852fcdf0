"""The servers that are checked, each on the same files: ours, and Orthanc with its DICOMweb plugin where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx

from tests.dicomweb.checks import File, Server
from tests.support.browsing import Browse
from tests.support.valkey import free_port
from tests.support.waiting import until

PLUGINS = Path("/usr/share/orthanc/plugins")
PACKAGES = "orthanc orthanc-dicomweb orthanc-gdcm"


@contextlib.contextmanager
def ours(folder: Path, files: Iterable[File], log: Path) -> Iterator[Server]:
    """`storage-ledger browse` on an archive that has these files."""
    browse = Browse(folder, log, "--no-login", BROWSE_WORKERS="2")
    try:
        with httpx.Client(base_url=f"{browse.url}/dicom-web", timeout=60) as client:
            yield Server(client, tuple(files))
    finally:
        browse.stop()


def program() -> str | None:
    """Return where Orthanc is; None if it, its DICOMweb plugin or its GDCM plugin is not installed."""
    found = shutil.which("Orthanc", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    return found if found and all((PLUGINS / f"libOrthanc{name}.so").exists() for name in ("DicomWeb", "Gdcm")) else None


def versions() -> str:
    """Return the versions of Orthanc and of its plugin, as the packages have them."""
    names = {"orthanc": "Orthanc", "orthanc-dicomweb": "its DICOMweb plugin"}
    shown = "--showformat=${Package} ${Version}\n"
    done = subprocess.run(["dpkg-query", "--show", shown, *names], capture_output=True, text=True, check=False)
    found = re.findall(r"^(\S+) ([0-9.]+)", done.stdout, re.MULTILINE)
    return ", ".join(f"{names[package]} {version}" for package, version in found)


class Orthanc:
    """An empty Orthanc on loopback, with the DICOMweb plugin and a decoder for every syntax. Its settings are the default, but for limits.

    It may end by itself: `ready` starts it again, with what it has stored.
    """

    def __init__(self, folder: Path) -> None:
        found = program()
        assert found is not None, f"Orthanc is not installed: apt-get install {PACKAGES}"
        folder.mkdir()
        self._folder = folder
        self._command = [found, str(folder / "orthanc.json")]
        self.port = free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"), "HttpPort": self.port,
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomServerEnabled": False, "LimitFindResults": 0,
            "Plugins": [str(PLUGINS / f"libOrthanc{name}.so") for name in ("DicomWeb", "Gdcm")], "DicomWeb": {"Enable": True},
            "KeepAlive": True, "TcpNoDelay": True,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def ready(self) -> None:
        """Start it if it does not run."""
        if self._process is not None:
            until(
                lambda: self._process is None or self._process.poll() is not None or self._answers(), 60, what="Orthanc to answer, or end"
            )
            if self._process.poll() is None:
                return
        self.starts += 1
        with (self._folder / "log").open("ab") as log:
            process = self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)
        until(lambda: process.poll() is not None or self._answers(), 60, what="Orthanc to answer")

    def _answers(self) -> bool:
        try:
            return self._client.get("/system").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def store(self, files: Iterable[File]) -> tuple[File, ...]:
        """Store files; return those that it took."""
        self.ready()
        return tuple(each for each in files if self._client.post("/instances", content=each.data).status_code == 200)

    def close(self) -> None:
        """End it."""
        self._client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)


@contextlib.contextmanager
def served(orthanc: Orthanc, files: Iterable[File]) -> Iterator[Server]:
    """Orthanc's DICOMweb service."""
    with httpx.Client(base_url=f"http://127.0.0.1:{orthanc.port}/dicom-web", timeout=60) as client:
        yield Server(client, tuple(files), orthanc.ready)
