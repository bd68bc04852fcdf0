"""kill -9 of `backup`, `restore` and `adopt` at any system call: run again, each finishes; nothing is lost or duplicated.

STORAGE_LEDGER_COMMANDS: how many points of each command (2; 0: every one), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.mirror import reader
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations import backup
from tests.recovery import tracing
from tests.support.figures import note
from tests.support.making import described
from tests.support.old_archive import add_study, picture
from tests.support.waiting import until
from tests.support.warm import Warm

KILLS = int(os.environ.get("STORAGE_LEDGER_COMMANDS", "2"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))
CALLS = (
    "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "openat", "pwrite64", "rename", "renameat", "unlink", "unlinkat", "write",
)  # fmt: skip
COMMAND = Path(__file__).with_name("waiting_command.py")
STUDIES = 12


@dataclass
class Folders:
    """The folders of one trial, all below `root`."""

    root: Path

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def file(self) -> Path:
        return self.root / "ledger" / "ledger.db"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    def run(self, warm: Warm, arguments: list[str], inject: str | None = None, trace: Path | None = None) -> int:
        """Run the command, killed at `point` if given; return the exit code."""
        log = self.root.parent / f"{self.root.name}.log"
        log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "UPLOADS_PATH": str(self.root / "uploads"),
            "ARCHIVE_PATH": str(self.archive),
            "LEDGER_PATH": str(self.file.parent),
        }
        arguments = [argument.replace("DEST", str(self.backups)) for argument in arguments]
        if inject is None and trace is None:
            return warm.start(environment, log, self.root, "storage-ledger", *arguments).wait(60)
        there = self.root.parent / f"{self.root.name}.there"
        process = warm.start(environment, log, self.root, str(COMMAND), str(there), *arguments)
        until(there.exists, 30, what="the command to wait")
        names = CALLS if inject is None else [inject.split(":")[0]]
        tracer = tracing.attach(process.pid, tracing.options(trace or Path(os.devnull), names, inject))
        os.kill(process.pid, signal.SIGUSR1)
        code = process.wait(60)
        tracer.wait(20)
        assert tracer.stderr is not None
        tracer.stderr.close()
        there.unlink()
        return code

    def said(self) -> str:
        return (self.root.parent / f"{self.root.name}.log").read_text()


def rows(file: Path) -> list[list[tuple]]:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    tables = ("entries", "meta WHERE name != 'last_backup'")  # the restore notes the backup, which the ledger in it cannot know
    found = [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]
    found.append(connection.execute("SELECT position, stage FROM pending ORDER BY 1, 2").fetchall())
    connection.close()
    return found


def whole(file: Path) -> None:
    """Check all hashes as for a backup, and SQLite's own structure."""
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    backup.check_copy(file)


def kill_everywhere(
    warm: Warm, beginning: Folders, arguments: list[str], check: Callable[[Folders, bool], None], kills: int = KILLS
) -> None:
    """Run the command from `beginning`, killed at `kills` points in turn (0: all), then again. `check(folders, run again)`."""
    tracing.needs_strace()
    folder = beginning.root.parent
    traced = Folders(folder / "traced")
    shutil.copytree(beginning.root, traced.root, symlinks=True)
    assert traced.run(warm, arguments, trace=folder / "trace") == 0, traced.said()
    check(traced, True)
    found = [(call.name, call.number) for call in tracing.calls(folder / "trace") if str(traced.root) in call.arguments]
    rng = random.Random(SEED)
    points = found if kills == 0 else rng.sample(found, min(kills, len(found)))
    met = 0
    for number, (name, nth) in enumerate(points):
        trial = Folders(folder / f"trial-{number}")
        shutil.copytree(beginning.root, trial.root, symlinks=True)
        code = trial.run(warm, arguments, inject=f"{name}:signal=SIGKILL:when={nth}")
        assert code in {-9, 0}, trial.said()
        met += code == -9
        check(trial, False)
        assert trial.run(warm, arguments) == 0, (name, nth, trial.said())
        check(trial, True)
        shutil.rmtree(trial.root)
    note(f"killed: {folder.name}", points=met, of=len(points), seed=SEED)
    assert met, "no point was met"


@pytest.fixture
def beginning(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "beginning")
    for name in ("uploads", "archive", "ledger"):
        (folders.root / name).mkdir(parents=True)
    return folders


@pytest.fixture
def written(beginning: Folders) -> Folders:
    """Make a ledger and its mirror, both with more entries than its one backup."""
    migrate(beginning.file)
    ledger = SqliteLedger(beginning.file)
    follower = Mirror(beginning.archive, beginning.root / "ledger" / "mirror.lock", ledger)
    follower.begin()
    for part in range(2):
        with ledger.write() as tx:
            for i in range(40):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{part}-{i}.dcm", {"note": "x" * 500}), f"s{i}"))
        follower.catch_up()
        if part == 0:
            backup.back_up(beginning.file, beginning.backups, now=datetime(2026, 1, 1, tzinfo=UTC))
    ledger.close()
    return beginning


@pytest.mark.timeout(4 * 3600)
def test_a_backup(written: Folders, warm: Warm) -> None:
    def check(folders: Folders, done: bool) -> None:
        names = os.listdir(folders.backups)
        for name in names:
            if name.startswith("ledger-"):  # whatever has the final name is complete
                place, manifest = backup.find(folders.backups / name)
                target = folders.root / "taken-out"
                backup.take_out(place, manifest, target)
                target.unlink()
        if done:
            assert not [name for name in names if name.startswith(".")]
            assert backup.find(folders.backups)[1].position == 80

    kill_everywhere(warm, written, ["backup", "DEST"], check)


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("in_its_place", ["nothing", "old", "damaged"])
def test_a_restore_from_a_backup(written: Folders, warm: Warm, in_its_place: str) -> None:
    expected = rows(written.file)
    damaged = random.Random(SEED).randbytes(10_000)
    for path in written.file.parent.iterdir():
        path.unlink()
    if in_its_place == "old":
        shutil.copy(backup.find(written.backups)[0] / "ledger.db", written.file)
    elif in_its_place == "damaged":
        written.file.write_bytes(damaged)

    def check(folders: Folders, done: bool) -> None:
        if done:
            whole(folders.file)
            assert rows(folders.file) == expected
            names = os.listdir(folders.file.parent)
            assert not [name for name in names if "restoring" in name]
            kept = [folders.file.parent / name for name in names if "before-restore" in name]
            if in_its_place == "damaged":
                assert damaged in [path.read_bytes() for path in kept]
            assert len(kept) <= 1 or in_its_place == "damaged"

    force = ["--force"] if in_its_place == "damaged" else []
    kill_everywhere(warm, written, ["restore", "--from-backup", "DEST", "--with-mirror", *force], check)


@pytest.mark.timeout(4 * 3600)
def test_a_restore_from_the_mirror(written: Folders, warm: Warm) -> None:
    expected = rows(written.file)
    for path in written.file.parent.iterdir():
        path.unlink()

    def check(folders: Folders, done: bool) -> None:
        if done:
            whole(folders.file)
            assert rows(folders.file) == expected

    kill_everywhere(warm, written, ["restore", "--from-mirror"], check)


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("rewrite", [False, True])
def test_an_adoption(beginning: Folders, warm: Warm, rewrite: bool) -> None:
    for i in range(STUDIES):
        add_study(beginning.archive, f"old-{i}", *(["a.dcm", "b.dcm"] if i % 3 == 0 else []))
    before = picture(beginning.archive)
    olds = {name.split("/")[0]: (beginning.archive / name).read_bytes() for name in before if name.endswith("/metadata.json")}

    def check(folders: Folders, done: bool) -> None:
        now = picture(folders.archive)
        files = {name: row[-1] for name, row in before.items() if name.endswith(".dcm")}
        assert {name: row[-1] for name, row in now.items() if name.endswith(".dcm")} == files
        if not rewrite:
            assert {name: row[-1] for name, row in now.items()} == {name: row[-1] for name, row in before.items()}
        if not folders.file.exists():
            assert not done
            return
        if not done:
            return
        whole(folders.file)
        ledger = SqliteLedger(folders.file)
        entries = ledger.read(0, 10_000)
        assert list(reader.entries(folders.archive, ledger.ledger_id)) == entries
        archived = [f"{entry.study_id}/{entry.data['file']['name']}" for entry in entries if entry.kind == Kind.ARCHIVED]
        assert sorted(archived) == sorted(files)
        assert [entry.kind for entry in entries].count("described") == len(files)
        assert ledger.queue() == []
        for study_id, old in olds.items():
            study = Study.of(study_id, ledger.study(study_id))
            data = metadata_json(study, DescribedPayload.of(ledger.get(study.speaker.position)))
            assert (folders.archive / study_id / "metadata.json").read_bytes() == data
            assert (data == old) == (not rewrite)
            kept = [entry.data["raw"] for entry in ledger.study(study_id) if entry.kind == Kind.DESCRIBED]
            assert {base64.b64decode(raw) for raw in kept} == {old}  # nothing is lost, at whatever point it was killed
            for file in study.files.values():
                assert FilesystemArchive(folders.archive).check(study_id, file.name, file.sha256, file.bytes) == "intact"
        ledger.close()
        hidden = [name for name in now if name.rpartition("/")[2].startswith(".")]
        assert hidden == []

    kill_everywhere(warm, beginning, ["adopt", *(["--rewrite-metadata"] if rewrite else [])], check)
