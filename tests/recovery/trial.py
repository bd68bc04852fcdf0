"""One trial: give the parts one fault, restart them if they ended, and check from outside what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.recovery import tracing
from tests.recovery.invariants import Checker
from tests.support.dicom import make_file
from tests.support.status_server import StatusServer

SETTLED_AFTER = 4  # starts; one is enough unless it gets a fault itself

FOLDERS = ("uploads", "archive", "ledger")
Groups = Sequence[Sequence[bytes]]
Violations = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The files in uploads, the groups of messages about them, and the expected archive and statuses in the end."""

    files: dict[str, bytes]
    groups: tuple[tuple[bytes, ...], ...]
    archived: dict[str, list[bytes]]
    told: dict[str, str]
    damaged: bool = False

    @property
    def studies(self) -> int:
        """Return the number of studies."""
        return len(self.archived)


def message(study_id: str, path: str, **more: Any) -> bytes:
    """Make a `described` message."""
    return json.dumps({"study_id": study_id, "file_path": path, "metadata": {"patient_info": {"patient_id": study_id}}, **more}).encode()


def first_study(folder: Path) -> Scenario:
    """Make one study and one invalid message, for a start on empty volumes."""
    make_file(folder / "first.dcm", seed=0)
    data = (folder / "first.dcm").read_bytes()
    (folder / "first.dcm").unlink()
    return Scenario({"first.dcm": data}, ((message("first", "first.dcm"), b"{"),), {"first": [data]}, {"first": "archived"})


def every_kind(folder: Path) -> Scenario:
    """Make what follows `first_study`, whose archived file is damaged by now: a new file, several files of one study, colliding
    names, redeliveries of pending, archived and damaged files, a missing file, invalid messages."""
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
    return Scenario(files, groups, archived, told, damaged=True)


DAMAGED = b"no longer what it was"


@dataclass(slots=True)
class Ended:
    """The end of a driver's run. `code`: None if it was killed. `acknowledged`: the groups it reported as recorded."""

    code: int | None
    acknowledged: set[int]
    events: list[dict[str, Any]]
    trace: list[tracing.Call] = field(default_factory=list)

    @property
    def started(self) -> bool:
        """Return whether it got as far as starting its parts."""
        return any("started" in event for event in self.events)

    @property
    def stuck(self) -> bool:
        """Return whether it was given up because it made no progress."""
        return self.code is None and bool(self.events) and "stuck" in self.events[-1]

    @property
    def why(self) -> str:
        """Return the code of the error that ended it, and where."""
        last = self.events[-1] if self.events else {}
        return f"{last.get('code')} at {last.get('at')}"


class Driver:
    """drive.py as a process, with its own Status Service."""

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
        self._process.wait(60)
        self._process.stdout.close()
        self.status.close()

    def run(
        self,
        root: Path,
        folders: Mapping[str, Path],
        groups: Groups,
        *,
        inject: str | None = None,
        traced: Sequence[str] = (),
        when_stuck: Callable[[list[str]], None] | None = None,
    ) -> Ended:
        """Run from the messages to the end, or until it is killed. `traced`: the names of the calls to trace."""
        ended = Ended(None, set(), [])
        tracer = None
        trace = root / "trace"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(100)
            connection.connect(str(self._socket))
            with connection.makefile("r") as lines:

                def say(what: object) -> None:
                    connection.sendall(json.dumps(what).encode() + b"\n")

                paths = {name: str(path) for name, path in folders.items()}
                say({"root": str(root), "folders": paths, "groups": [[raw.hex() for raw in group] for group in groups]})
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
                            if when_stuck is None:
                                break  # it ends when this process has ended
                            when_stuck(event["stuck"])
                            say("go on")
                        elif "done" in event:
                            ended.code = event["done"]
                except ConnectionResetError:
                    pass  # killed before it had read everything
        if tracer is not None:
            tracer.wait(60)
            assert tracer.stderr is not None
            tracer.stderr.close()
            ended.trace = list(tracing.calls(trace))
        return ended


class Trial:
    """The three folders of one trial, below `root` unless `elsewhere`, and the promises made so far."""

    def __init__(self, driver: Driver, root: Path, scenario: Scenario, elsewhere: Mapping[str, Path] | None = None) -> None:
        self.driver = driver
        self.root = root
        self.scenario = scenario
        self.violations: Violations = []
        self.acknowledged: set[int] = set()
        self.statuses: dict[str, dict[str, Any]] = {}
        self.folders = {name: root / name for name in FOLDERS} | dict(elsewhere or {})
        self.uploads, self.archive, self.ledger = (self.folders[name] for name in FOLDERS)

    def put_uploads(self) -> None:
        """Put the files into uploads."""
        for path, data in self.scenario.files.items():
            (self.uploads / path).parent.mkdir(parents=True, exist_ok=True)
            (self.uploads / path).write_bytes(data)

    def run(self, **how: Any) -> Ended:
        """Start once, with the unacknowledged groups; then check what must hold at any moment."""
        first = next((n for n in range(len(self.scenario.groups)) if n not in self.acknowledged), len(self.scenario.groups))
        ended = self.driver.run(self.root, self.folders, self.scenario.groups[first:], **how)
        self.acknowledged |= {first + number for number in ended.acknowledged}
        self.statuses = dict(self.driver.status.statuses)
        if ended.stuck:
            self.bad("comes-no-further", why=str(ended.events[-1]))
        if ended.code is None or ended.code:
            self.check(settled=False, made=ended.started or bool(self.acknowledged))
        return ended

    def outlived(self, ended: Ended) -> None:
        """Check that it did not end with an error. It may if it cannot start, but not for one failed call while it is working.

        One exception: SQLite reports an unreadable page as SQLITE_CORRUPT (vdbe.c), and the service stops at a damaged ledger.
        """
        unread = [call for call in ended.trace if call.injected and call.name == "pread64"]
        if unread and ended.code and ended.events[-1]["code"] == "ledger-damaged":
            return
        if ended.code is None and not ended.stuck:
            self.bad("died-of-an-error")
        if ended.code and (ended.started or ended.events[-1]["code"] == "AssertionError"):
            self.bad("ended-by-an-error", why=ended.why)

    def settle(self, **how: Any) -> int:
        """Start until it finishes; return how many starts it took."""
        for starts in range(1, SETTLED_AFTER + 1):
            ended = self.run(**how)
            if ended.code == 0:
                return starts
        self.bad("does-not-recover", why=ended.why)
        return SETTLED_AFTER

    def bad(self, code: str, **where: Any) -> None:
        """Add a violation."""
        self.violations.append({"code": code, **where})

    def check(self, *, settled: bool, made: bool = True) -> None:
        """Run the independent checker, and check that every upload has a complete copy."""
        copies = self._files(self.uploads) + self._files(self.archive)
        for path, data in self.scenario.files.items():
            if digest(data) not in copies:
                self.bad("no-complete-copy", path=path)
        if made:
            self._check_ledger(settled=settled)
        if settled:
            self._check_end()

    def _check_ledger(self, *, settled: bool) -> None:
        checker = Checker(self.uploads, self.archive, self.ledger, settled)
        try:
            found = checker.run()
        except (sqlite3.Error, OSError, ValueError, LookupError, TypeError) as error:
            self.bad("checker-could-not", detail=repr(error)[-300:])
            return
        self.violations += [bad for bad in found["violations"] if settled or not self._is_known_damage(bad)]
        if self.acknowledged and found["counts"].get("described", 0) < 1:
            self.bad("acknowledged-not-recorded")

    def _is_known_damage(self, violation: dict[str, Any]) -> bool:
        """Return whether it is the file damaged on purpose, not yet repaired by its redelivery."""
        codes = {"archived-file-changed", "archived-file-missing"}
        return self.scenario.damaged and violation["code"] in codes and violation["study_id"] == "first"

    def _check_end(self) -> None:
        for study_id, contents in self.scenario.archived.items():
            wanted = Counter(digest(data) for data in contents)
            if (found := self._files(self.archive / study_id, but="metadata.json")) != wanted:
                self.bad("archive-differs", study_id=study_id, files=found.total(), wanted=wanted.total())
        if left := self._files(self.uploads).total():
            self.bad("uploads-left", files=left)
        if digest(DAMAGED) not in self._files(self.archive) and self.scenario.damaged:
            self.bad("evidence-lost")
        for study_id, word in self.scenario.told.items():
            if (said := self.driver.status.status(study_id)) != word:
                self.bad("status-differs", study_id=study_id, said=said)

    def _files(self, folder: Path, *, but: str = "") -> Counter[str]:
        return Counter(digest(path.read_bytes()) for path in folder.rglob("*") if path.is_file() and path.name != but)


def template(driver: Driver, root: Path) -> Trial:
    """Make the folders for `every_kind`: `first_study` was archived, then damaged, and uploaded again."""
    root.mkdir()
    before = Trial(driver, root, first_study(root))
    before.uploads.mkdir()
    before.put_uploads()
    assert before.run().code == 0
    before.check(settled=True)
    assert before.violations == []
    trial = Trial(driver, root, every_kind(root))
    trial.statuses = before.statuses
    trial.put_uploads()
    [archived] = trial.archive.glob("first/*.dcm")
    archived.chmod(0o640)
    archived.write_bytes(DAMAGED)
    archived.chmod(0o440)
    return trial


def empty(driver: Driver, root: Path) -> Trial:
    """Make the folders of a first start: no ledger, no archive."""
    root.mkdir()
    trial = Trial(driver, root, first_study(root))
    trial.uploads.mkdir()
    trial.put_uploads()
    return trial


def copy_of(trial: Trial, driver: Driver, root: Path, elsewhere: Mapping[str, Path] | None = None) -> Trial:
    """Copy a trial to another place; the driver's Status Service gets the statuses sent so far."""
    root.mkdir(exist_ok=True)
    copy = Trial(driver, root, trial.scenario, elsewhere)
    for name, folder in trial.folders.items():
        if folder.exists():
            shutil.copytree(folder, copy.folders[name])
    copy.acknowledged = set(trial.acknowledged)
    driver.status.statuses = dict(trial.statuses)
    return copy


def digest(data: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def summary(violations: Violations) -> str:
    """Return one line for each kind of violation: how often, and the first one."""
    kinds: dict[str, Violations] = defaultdict(list)
    for violation in violations:
        kinds[f"{violation['code']} {violation.get('why', '')}"].append(violation)
    return "\n" + "\n".join(f"{len(found):5} x {found[0]}" for found in kinds.values())
