"""kill -9 of a process that signs a checkpoint, or replaces the key, at any system call: no note is ever half, or another one.

STORAGE_LEDGER_SIGNINGS: how many points of each command (2; 0: every one), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof.keys import is_signed, recorded_keys
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.recovery import tracing
from tests.recovery.test_killed_commands import Folders, kill_everywhere
from tests.support.making import described
from tests.support.warm import Warm

KILLS = int(os.environ.get("STORAGE_LEDGER_SIGNINGS", "2"))
ROTATE = ["checkpoint", "rotate-key", "--by", "Jane Doe", "--reason", "it was time"]
PROCESSES = 4


class Notes:
    """The notes that were ever seen in a trial's archive."""

    def __init__(self) -> None:
        self._seen: dict[Path, dict[int, bytes]] = {}

    def check(self, folders: Folders, *, done: bool) -> None:
        """Assert that each note is whole, signed by a recorded key, and the only one of its size that there ever was."""
        place = folders.archive / ".ledger" / "checkpoints"
        names = set(os.listdir(place)) if place.exists() else set()
        assert {name for name in names if not name.isdecimal()} <= {".checkpoint.tmp"}  # of a killed process; the next note replaces it
        seen = self._seen.setdefault(folders.root, {})
        ledger = SqliteLedger(folders.file)
        keys = [VerifierKey.parse(each.vkey) for each in recorded_keys(ledger)]
        entries = ledger.read(0, 10_000)
        ledger.close()
        for size in sorted(int(name) for name in names if name.isdecimal()):
            data = (place / str(size)).read_bytes()
            assert seen.setdefault(size, data) == data
            note = SignedNote.parse(data)
            stated = Checkpoint.parse(note.text)
            root = Tree().extend(entry.leaf_hash for entry in entries[:size]).root()
            assert (stated.size, stated.root) == (size, root)
            assert note.signatures
            assert all(any(is_signed(note.text.encode(), each.value, key) for key in keys) for each in note.signatures)
        assert {int(name) for name in names if name.isdecimal()} == seen.keys(), "none disappears"
        if done:
            assert max(seen) == len(entries)
            assert (folders.file.parent / "checkpoint.latest").read_bytes() == seen[max(seen)]
            assert not list(folders.file.parent.glob(".checkpoint.latest*"))


def append(folders: Folders, count: int) -> None:
    ledger = SqliteLedger(folders.file)
    mirror = Mirror(folders.archive, folders.file.parent / "mirror.lock", ledger)
    mirror.begin()
    with ledger.write() as tx:
        for i in range(count):
            tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm"), f"s{i}"))
    mirror.catch_up()
    ledger.close()


@pytest.fixture
def unsigned(tmp_path: Path) -> Folders:
    """Make a ledger with more than one block of the tree, and its mirror."""
    folders = Folders(tmp_path / "beginning")
    for name in ("uploads", "archive", "ledger"):
        (folders.root / name).mkdir(parents=True)
    migrate(folders.file)
    append(folders, 300)
    return folders


@pytest.fixture
def signed(unsigned: Folders, warm: Warm) -> Folders:
    """Sign it once, and append more."""
    assert unsigned.run(warm, ["checkpoint"]) == 0, unsigned.said()
    append(unsigned, 300)
    return unsigned


@pytest.mark.timeout(4 * 3600)
def test_a_first_checkpoint(unsigned: Folders, warm: Warm) -> None:
    notes = Notes()
    kill_everywhere(warm, unsigned, ["checkpoint"], lambda folders, done: notes.check(folders, done=done), KILLS)


@pytest.mark.timeout(4 * 3600)
def test_a_later_checkpoint(signed: Folders, warm: Warm) -> None:
    notes = Notes()
    kill_everywhere(warm, signed, ["checkpoint"], lambda folders, done: notes.check(folders, done=done), KILLS)
    calls = [(call.name, [path.rpartition("/")[2] for path in call.paths]) for call in tracing.calls(signed.root.parent / "trace")]
    named = next(number for number, (name, paths) in enumerate(calls) if name == "linkat" and ".checkpoint.tmp" in paths)
    copied = next(number for number, (name, paths) in enumerate(calls) if name == "renameat" and "checkpoint.latest" in paths)
    assert ("fsync", [".checkpoint.tmp"]) in calls[:named], "a note is durable before it gets its name"
    assert ("fsync", ["checkpoints"]) in calls[named:copied], "and its name, before the ledger's volume knows of it"


@pytest.mark.timeout(4 * 3600)
def test_a_new_key(signed: Folders, warm: Warm) -> None:
    notes = Notes()

    def check(folders: Folders, done: bool) -> None:
        notes.check(folders, done=False)
        copy = Folders(folders.root.with_name("copy"))  # signing in the trial itself would finish what the kill has left
        shutil.copytree(folders.root, copy.root)
        assert copy.run(warm, ["checkpoint"]) == 0, copy.said()
        Notes().check(copy, done=True)
        ledger = SqliteLedger(copy.file)
        newest = VerifierKey.parse(recorded_keys(ledger)[0].vkey)
        ledger.close()
        note = SignedNote.parse((copy.file.parent / "checkpoint.latest").read_bytes())
        assert newest.key_id in [each.key_id for each in note.signatures]
        assert not done or len(note.signatures) == 2
        shutil.rmtree(copy.root)

    kill_everywhere(warm, signed, ROTATE, check, KILLS)


def test_processes_that_sign_at_the_same_time_take_turns(signed: Folders, warm: Warm) -> None:
    codes: list[int] = []
    environment = {
        **os.environ,
        "UPLOADS_PATH": str(signed.root / "uploads"),
        "ARCHIVE_PATH": str(signed.archive),
        "LEDGER_PATH": str(signed.file.parent),
    }
    log = signed.root.parent / "together.log"
    processes = [warm.start(environment, log, signed.root, "storage-ledger", "checkpoint") for _ in range(PROCESSES)]
    appending = threading.Thread(target=append, args=(signed, 50))
    appending.start()
    codes = [process.wait(60) for process in processes]
    appending.join()
    assert codes == [0] * PROCESSES, log.read_text()
    assert signed.run(warm, ["checkpoint"]) == 0
    Notes().check(signed, done=True)
