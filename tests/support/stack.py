"""The real service in its own process and folders, with a real Valkey and a real HTTP Status Service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.valkey import Valkey, free_port
from tests.support.waiting import until
from tests.support.warm import Warm, WarmProcess, shared

CHECKER = Path(__file__).resolve().parent.parent / "recovery" / "invariants.py"


class Stack:
    """`start`, `stop` (SIGTERM) and `kill` (SIGKILL) the service as often as you like; `command` runs any other command.

    The processes are forked from one that has imported everything; with `cold`, each starts its own Python.
    """

    def __init__(
        self,
        root: Path,
        valkey: Valkey,
        status_url: str,
        *,
        uploads: Path | None = None,
        warm: Warm | None = None,
        cold: bool = False,
        **settings: object,
    ) -> None:
        self.root = root
        self.warm = warm or shared()
        self.cold = cold
        self.uploads = uploads or root / "uploads"
        self.archive = root / "archive"
        self.ledger = root / "ledger"
        for folder in (self.uploads, self.archive, self.ledger):
            folder.mkdir(parents=True, exist_ok=True)
        self.valkey = valkey
        self.channel = valkey.channel()
        self.port = free_port()
        self.log = root / "serve.log"
        self.process: subprocess.Popen[bytes] | WarmProcess | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "STATUS_", "HTTP_", "DESCRIBED_"))},
            "REDIS_URL": valkey.url,
            "DESCRIBED_CHANNEL": self.channel,
            "STATUS_SERVICE_URL": status_url,
            "UPLOADS_PATH": str(self.uploads),
            "ARCHIVE_PATH": str(self.archive),
            "LEDGER_PATH": str(self.ledger),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "WORKERS": os.environ.get("WORKERS", "0"),  # they start cold: tests that are about them, and the faults, ask for them
            "STATUS_CONFIRM_SECONDS": "0.3",
            "CHECKPOINT_SECONDS": "0",  # a checkpoint appends an entry at its own time: tests that are about them ask for them
            "MISSING_FILE_GRACE_SECONDS": "1",
            **{name: str(value) for name, value in settings.items()},
        }

    def start(self, *, ready: bool = True, under: Sequence[str] = ()) -> None:
        """Start `serve` (`under` another program, such as strace); wait until it is ready, unless `ready` is false."""
        if not (self.cold or under):
            self.process = self.warm.start(self.environment, self.log, self.root, "storage-ledger", "serve")
        else:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*under, sys.executable, "-m", "storage_ledger", "serve"],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    cwd=self.root,
                    start_new_session=True,
                )
        if ready:
            until(self._ready_or_dead, 60, what=f"the service to be ready; its log: {self.log}")

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.process is not None
        os.kill(self._pid(), signal.SIGTERM)
        return self.process.wait(40)

    def _pid(self) -> int:
        """Return the pid of the service itself, whatever it runs under."""
        note = (self.ledger / "serve.lock").read_text()
        if note:
            return int(json.loads(note)["pid"])
        assert self.process is not None  # a fault injected by strace prevented the note; strace has one child
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def kill(self, *, workers_end: bool = True) -> None:
        """SIGKILL; it may have ended by itself. Its workers end then; with `workers_end`, wait for that."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # including whatever it runs under
        self.process.wait(60)
        if workers_end and self.environment["WORKERS"] != "0":
            until(lambda: not self.workers(), 30, what="the workers to end")

    def workers(self) -> list[int]:
        """Return the process ids of the worker processes, by their number."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (folder / "cmdline").read_bytes().split(b"\0")
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    if b"storage_ledger.wiring.worker_commands" in command and f"LEDGER_PATH={self.ledger}".encode() in environment:
                        found[int(command[-3])] = int(folder.name)
        return [found[number] for number in sorted(found)]

    def close(self) -> None:
        """End every process that is still running."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def publish(self, message: Mapping[str, Any] | bytes) -> int:
        """Publish on the service's channel; return the number of subscribers."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.valkey.publish(self.channel, data)

    def add(self, message: Mapping[str, Any] | bytes) -> None:
        """Add an entry to the stream that the service reads (`DESCRIBED_STREAM`)."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.valkey.add(self.environment["DESCRIBED_STREAM"], data)

    def get(self, path: str) -> tuple[int, str]:
        """Send a GET request to the service."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, line: str) -> float:
        """Return the value of one line of /metrics; 0 if it is missing."""
        found = [row for row in self.get("/metrics")[1].splitlines() if row.startswith(line + " ")]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the package on the same settings."""
        if not self.cold:
            return self.warm.run(self.environment, self.root, "storage-ledger", *arguments, timeout_s=60)
        return subprocess.run(
            [sys.executable, "-m", "storage_ledger", *arguments],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def check(self, *, settled: bool = True) -> dict[str, Any]:
        """Run the independent checker in its own process; return its findings."""
        arguments = ["--uploads", str(self.uploads), "--archive", str(self.archive), "--ledger", str(self.ledger)]
        done = subprocess.run(
            [sys.executable, "-I", str(CHECKER), *arguments, *(["--settled"] if settled else [])],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout, done.stderr  # exit code 1 means violations, or a bug in the checker
        return json.loads(done.stdout)

    def idle(self) -> bool:
        """Return whether only read-backs are waiting, and index and mirror have caught up."""
        _, text = self.get("/metrics")
        rows = dict(row.rsplit(" ", 1) for row in text.splitlines() if row and not row.startswith("#"))
        stages = [rows.get(f'storage_ledger_pending{{stage="{stage}"}}') for stage in ("place", "remove", "tell")]
        followers = [rows.get(f"storage_ledger_{name}_position") for name in ("index", "mirror")]
        return stages == ["0.0"] * 3 and followers == [rows.get("storage_ledger_ledger_position")] * 2

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        return self.get("/readyz")[0] == 200
