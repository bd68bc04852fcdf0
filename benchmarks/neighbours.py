"""What a benchmarked `serve` speaks to: a real Valkey and a lean Status Service, both processes on this machine that can be restarted."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kept_connection import answers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.valkey import Valkey, free_port  # noqa: E402
from tests.support.waiting import until  # noqa: E402


class StatusService:
    """`lean_status.py` on a port that it keeps; its statuses are lost with it."""

    def __init__(self) -> None:
        self.port = free_port()

    def start(self) -> None:
        """Start it; return when it answers."""
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("lean_status.py")), str(self.port)])
        until(lambda: answers(self._process, self.port, "/health"), 120, what="the Status Service is up")

    def stop(self) -> None:
        """Kill it, if it runs."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Both of them, running."""

    valkey: Valkey
    status: StatusService


@contextlib.contextmanager
def neighbours(folder: Path, *valkey_arguments: str) -> Iterator[Neighbours]:
    """Start both, and stop them at the end. Valkey's files are in `folder`."""
    (folder / "valkey").mkdir()
    both = Neighbours(Valkey(folder / "valkey", *valkey_arguments), StatusService())
    both.valkey.start()
    try:
        both.status.start()
        try:
            yield both
        finally:
            both.status.stop()
    finally:
        both.valkey.stop()
