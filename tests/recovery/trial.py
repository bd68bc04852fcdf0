"""One trial: the parts meet one fault, start again where they ended, and what they leave is checked from outside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.recovery import tracing
from tests.support.dicom import make_file
from tests.support.status_server import StatusServer

CHECKER = Path(__file__).with_name("invariants.py")
SETTLED_AFTER = 4  # starts; one is enough unless it meets a fault itself

Groups = Sequence[Sequence[bytes]]
Violations = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What lies in uploads, what is said about it in which groups, and what must be in the archive and told in the end."""

    files: dict[str, bytes]
    groups: tuple[tuple[bytes, ...], ...]
    archived: dict[str, list[bytes]]
    told: dict[str, str]

    @property
    def studies(self) -> int:
        """How many."""
        return len(self.archived)


def message(study_id: str, path: str, **more: Any) -> bytes:
    """A `described` message."""
    return json.dumps({"study_id": study_id, "file_path": path, "metadata": {"patient_info": {"patient_id": study_id}}, **more}).encode()


def first_study(folder: Path) -> Scenario:
    """One study and what is no message: for a start on empty volumes."""
    make_file(folder / "first.dcm", seed=0)
    data = (folder / "first.dcm").read_bytes()
    (folder / "first.dcm").unlink()
    return Scenario({"first.dcm": data}, ((message("first", "first.dcm"), b"{"),), {"first": [data]}, {"first": "archived"})


def every_kind(folder: Path) -> Scenario:
    """Follows `first_study`, whose archived file is damaged by now: a new file, several of one study, names that collide,
    redeliveries of what is pending, archived and damaged, a file that is missing, messages that are none."""
    first = first_study(folder)
    make_file(folder / "new.dcm", seed=1)
    new = (folder / "new.dcm").read_bytes()
    (folder / "new.dcm").unlink()
    files = {
        **first.files,
        "new.dcm": new,
        "many/a.dcm": b"a" * 5_000,
        "many/b.dcm": b"b" * 70_000,
        "other/a.dcm": b"another a",
        ".hidden": b"hidden",
    }
    groups = (
        (
            message("new", "/app/uploads/new.dcm"),
            message("many", "many/a.dcm"),
            message("many", "many/b.dcm"),
            b"\xff",
            message("refused", "/etc/passwd"),
            message("many", "other/a.dcm"),
        ),
        (
            message("new", "/app/uploads/new.dcm"),
            message("hidden", ".hidden"),
            message("hidden", ".hidden"),
            message("missing", "missing.dcm"),
            message("first", "first.dcm"),
        ),
    )
    archived = {
        **first.archived,
        "new": [new],
        "many": [files["many/a.dcm"], files["many/b.dcm"], files["other/a.dcm"]],
        "hidden": [files[".hidden"]],
    }
    told = {**dict.fromkeys(archived, "archived"), "refused": "failed", "missing": "failed"}
    return Scenario(files, groups, archived, told)


DAMAGED = b"no longer what it was"


@dataclass(slots=True)
class Ended:
    """How a run of the driver ended. `code`: None when it was killed. `acknowledged`: groups that it said were recorded."""

    code: int | None
    acknowledged: set[int]
    events: list[dict[str, Any]]
    trace: list[tracing.Call] = field(default_factory=list)

    @property
    def started(self) -> bool:
        """Whether it came as far as its parts."""
        return any("started" in event for event in self.events)

    @property
    def why(self) -> str:
        """The code of the error that ended it, and where."""
        last = self.events[-1] if self.events else {}
        return f"{last.get('code')} at {last.get('at')}"


class Driver:
    """drive.py as a process, with a Status Service of its own."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "drive.sock"
        self.status = StatusServer()
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.recovery.drive", str(self._socket), self.status.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n"

    def close(self) -> None:
        """End both."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self.status.close()

    def run(
        self,
        root: Path,
        groups: Groups,
        *,
        inject: str | None = None,
        traced: Sequence[str] = (),
        when_stuck: Callable[[list[str]], None] | None = None,
    ) -> Ended:
        """From the messages to the end, or to where it is killed. `traced`: the names of the calls that its trace shall hold."""
        ended = Ended(None, set(), [])
        tracer = None
        trace = root / "trace"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(100)
            connection.connect(str(self._socket))
            with connection.makefile("r") as lines:

                def say(what: object) -> None:
                    connection.sendall(json.dumps(what).encode() + b"\n")

                say({"root": str(root), "groups": [[raw.hex() for raw in group] for group in groups]})
                pid = json.loads(lines.readline())["pid"]
                if traced:
                    tracer = tracing.attach(pid, tracing.options(trace, traced, inject))
                say("go")
                try:
                    for line in lines:
                        event = json.loads(line)
                        ended.events.append(event)
                        if "acknowledged" in event:
                            ended.acknowledged.add(event["acknowledged"])
                        elif "stuck" in event:
                            assert when_stuck is not None, f"comes no further: {event}"
                            when_stuck(event["stuck"])
                            say("go on")
                        elif "done" in event:
                            ended.code = event["done"]
                except ConnectionResetError:
                    pass  # killed before it had read everything
        if tracer is not None:
            tracer.wait(30)
            assert tracer.stderr is not None
            tracer.stderr.close()
            ended.trace = list(tracing.calls(trace))
        return ended


class Trial:
    """The three folders of one trial below `root`, and what was promised about them so far."""

    def __init__(self, driver: Driver, root: Path, scenario: Scenario) -> None:
        self.driver = driver
        self.root = root
        self.scenario = scenario
        self.violations: Violations = []
        self.acknowledged: set[int] = set()
        self.uploads, self.archive, self.ledger = (root / name for name in ("uploads", "archive", "ledger"))

    def put_uploads(self) -> None:
        """Let the files appear."""
        for path, data in self.scenario.files.items():
            (self.uploads / path).parent.mkdir(parents=True, exist_ok=True)
            (self.uploads / path).write_bytes(data)

    def run(self, **how: Any) -> Ended:
        """One start, with what was not yet acknowledged; then what must hold at any moment."""
        first = next((n for n in range(len(self.scenario.groups)) if n not in self.acknowledged), len(self.scenario.groups))
        ended = self.driver.run(self.root, self.scenario.groups[first:], **how)
        self.acknowledged |= {first + number for number in ended.acknowledged}
        if ended.code is None or ended.code:
            self.check(settled=False, made=ended.started or bool(self.acknowledged))
        return ended

    def ended_by_error(self, ended: Ended) -> None:
        """A service may end where its ledger cannot be opened or is damaged; one failed call while it works is no reason."""
        if ended.started or ended.events[-1]["code"] == "AssertionError":
            self.bad("ended-by-one-error", why=ended.why)

    def settle(self, **how: Any) -> int:
        """Start until it comes to its end; returns how many starts it took."""
        for starts in range(1, SETTLED_AFTER + 1):
            ended = self.run(**how)
            if ended.code == 0:
                return starts
        self.bad("does-not-recover", why=ended.why)
        return SETTLED_AFTER

    def bad(self, code: str, **where: Any) -> None:
        """A violation."""
        self.violations.append({"code": code, **where})

    def check(self, *, settled: bool, made: bool = True) -> None:
        """The independent checker, and that of every upload a complete copy is there."""
        copies = self._files(self.uploads) + self._files(self.archive)
        for path, data in self.scenario.files.items():
            if digest(data) not in copies:
                self.bad("no-complete-copy", path=path)
        if made:
            self._check_ledger(settled=settled)
        if settled:
            self._check_end()

    def _check_ledger(self, *, settled: bool) -> None:
        arguments = [f"--{name}={getattr(self, name)}" for name in ("uploads", "archive", "ledger")]
        done = subprocess.run(
            [sys.executable, "-I", str(CHECKER), *arguments, *(["--settled"] if settled else [])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if not done.stdout:
            self.bad("checker-could-not", detail=done.stderr[-300:])
            return
        found = json.loads(done.stdout)
        self.violations += found["violations"]
        if self.acknowledged and found["counts"].get("described", 0) < 1:
            self.bad("acknowledged-not-recorded")

    def _check_end(self) -> None:
        for study_id, contents in self.scenario.archived.items():
            wanted = Counter(digest(data) for data in contents)
            if (found := self._files(self.archive / study_id, but="metadata.json")) != wanted:
                self.bad("archive-differs", study_id=study_id, files=found.total(), wanted=wanted.total())
        if left := self._files(self.uploads).total():
            self.bad("uploads-left", files=left)
        if digest(DAMAGED) not in self._files(self.archive) and "missing" in self.scenario.told:
            self.bad("evidence-lost")
        for study_id, word in self.scenario.told.items():
            if (said := self.driver.status.status(study_id)) != word:
                self.bad("status-differs", study_id=study_id, said=said)

    def _files(self, folder: Path, *, but: str = "") -> Counter[str]:
        return Counter(digest(path.read_bytes()) for path in folder.rglob("*") if path.is_file() and path.name != but)


def template(driver: Driver, root: Path) -> Trial:
    """Folders on which `every_kind` begins: `first_study` is archived, damaged since, and uploaded again."""
    root.mkdir()
    before = Trial(driver, root, first_study(root))
    before.uploads.mkdir()
    before.put_uploads()
    assert before.run().code == 0
    before.check(settled=True)
    assert before.violations == []
    trial = Trial(driver, root, every_kind(root))
    trial.put_uploads()
    [archived] = trial.archive.glob("first/*.dcm")
    archived.chmod(0o640)
    archived.write_bytes(DAMAGED)
    archived.chmod(0o440)
    return trial


def empty(driver: Driver, root: Path) -> Trial:
    """Folders of a first start: no ledger, no archive."""
    root.mkdir()
    trial = Trial(driver, root, first_study(root))
    trial.uploads.mkdir()
    trial.put_uploads()
    return trial


def copy_of(trial: Trial, driver: Driver, root: Path) -> Trial:
    """The same at another place, to be spoilt there."""
    shutil.copytree(trial.root, root, symlinks=True)
    copy = Trial(driver, root, trial.scenario)
    copy.acknowledged = set(trial.acknowledged)
    return copy


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
