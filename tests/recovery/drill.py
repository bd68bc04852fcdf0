"""Rehearse one disaster after another on a scratch copy, each repaired with the commands of its how-to.

    scripts/drill [--studies 2000] [--seed 5] [--only NAME …] [--json FILE] [--list]

The real service makes an archive from real messages: files of mixed sizes, studies with several files, equal names with different
bytes, redeliveries, studies that failed at first, were quarantined or discarded, and rejected messages. Each disaster gets a copy.
Afterwards the archive's files, all earlier entries, the index and the statuses must be as before, `verify` must find nothing, and
`serve` must start. Exit code 0: everything came back; 1: something did not.
"""

# ruff: noqa: T201 - prints to the terminal
from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.dicom import described, make_file
from tests.support.guard import guarded
from tests.support.results import ROOT, conditions, table, write_table
from tests.support.stack import Stack
from tests.support.status_server import StatusServer
from tests.support.valkey import Valkey
from tests.support.waiting import until
from tests.support.warm import Warm

ADDED_BY_RECOVERY = {"restored", "verified", "status-sent", "key", "acknowledged"}
"""The kinds of entries that a recovery may add."""

FOLLOWS_THEM = {"last_position", "placed", "fixity", "verified_at"}
"""The columns of the index that change with those entries."""

SIDES = ((32, 60), (128, 30), (512, 10))
"""Rows and columns of an image, and the percentage of files with them: 2, 33, 525 KB."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that must come back. `tree`: path → SHA-256 and mode, without `.ledger/`; `index`: table → rows, without FOLLOWS_THEM.

    `checkpoints`: of which the last one must come back, whatever is lost: the archive has it, and the ledger's volume a copy.
    """

    entries: list[tuple[Any, ...]]
    tree: dict[str, tuple[str, int]]
    index: dict[str, list[dict[str, Any]]]
    statuses: dict[str, str]
    checkpoints: dict[int, bytes]


@dataclass(slots=True)
class Scratch:
    """A copy to damage. `copy`: of the archive's files, as an operator may have one; `backups`: the newest and an old one."""

    stack: Stack
    statuses: StatusServer
    rng: random.Random
    copy: Path
    backup: Path
    old_backup: Path
    before: State
    warm: Warm
    seconds: float = 0.0
    commands: list[str] = field(default_factory=list)

    def run(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run a command of the how-to, which must exit with `code`; return its output."""
        log = self.stack.root / f"command-{len(self.commands)}.log"
        began = time.monotonic()
        process = self.warm.start({**self.stack.environment, **settings}, log, self.stack.root, "storage-ledger", *arguments)
        ended = process.wait(3600)
        self.seconds += time.monotonic() - began
        said = log.read_text(encoding="utf-8", errors="replace")
        self.commands.append(" ".join(("storage-ledger", *arguments)))
        if ended != code:
            raise Wrong(f"`{self.commands[-1]}` ended with {ended}, not {code}: {said[-1500:]}")
        return said

    def refuses(self, word: str, **settings: str) -> None:
        """Assert that `serve` refuses to start and says why."""
        said = self.run("serve", code=2, **settings)
        if word not in said:
            raise Wrong(f"`serve` does not say {word}: {said[-800:]}")

    def studies(self, share: float) -> list[str]:
        """Return some of the studies with files."""
        names = sorted({path.partition("/")[0] for path in self.before.tree})
        return self.rng.sample(names, max(2, int(len(names) * share)))

    def files(self, share: float) -> list[Path]:
        """Return some archived files."""
        names = sorted(path for path in self.before.tree if not path.endswith("/metadata.json"))
        return [self.stack.archive / name for name in self.rng.sample(names, max(3, int(len(names) * share)))]


class Wrong(Exception):
    """Something did not happen as the how-to says."""


# -- the disasters


def index_lost(s: Scratch) -> None:
    for path in s.stack.ledger.glob("index.db*"):
        path.unlink()
    s.run("replay", "--index")


def index_lost_and_served(s: Scratch) -> None:
    for path in s.stack.ledger.glob("index.db*"):
        path.unlink()
    start(s)


def index_wrong_while_serving(s: Scratch) -> None:
    start(s)
    with closing(sqlite3.connect(s.stack.ledger / "index.db", timeout=30)) as connection:
        connection.execute("DELETE FROM files WHERE position % 2")
        connection.execute("UPDATE studies SET state = 'pending', patient_name = 'nobody'")
        connection.commit()
    s.run("replay", "--index")


def metadata_lost(s: Scratch) -> None:
    for n, study_id in enumerate(s.studies(0.1)):
        path = s.stack.archive / study_id / "metadata.json"
        path.unlink()
        if n % 2:
            path.write_bytes(s.rng.choice((b"", b"{", b"\0" * 500, s.rng.randbytes(300))))
    s.run("replay", "--metadata")


def files_damaged(s: Scratch) -> None:
    harm(s)
    s.run("replay", "--files", "--source", str(s.copy))


def files_damaged_while_serving(s: Scratch) -> None:
    harm(s)
    start(s)
    s.run("replay", "--files", "--source", str(s.copy))


def harm(s: Scratch) -> None:
    for n, path in enumerate(s.files(0.05)):
        path.chmod(0o640)
        data = bytearray(path.read_bytes())
        match n % 3:
            case 0:
                data[s.rng.randrange(len(data))] ^= 1 << s.rng.randrange(8)
                path.write_bytes(data)
            case 1:
                path.write_bytes(data[: s.rng.randrange(len(data))])
            case _:
                path.unlink()


def wrong_deletion(s: Scratch) -> None:
    for study_id in s.studies(0.05):
        shutil.rmtree(s.stack.archive / study_id)
    s.run("replay", "--files", "--metadata", "--source", str(s.copy))


def status_store_emptied(s: Scratch) -> None:
    s.statuses.forget()
    s.run("replay", "--statuses", "--rate", "10000")


def status_store_emptied_while_serving(s: Scratch) -> None:
    start(s)
    s.statuses.forget()
    s.run("replay", "--statuses", "--rate", "10000")


def ledger_volume_lost(s: Scratch) -> None:
    empty(s.stack.ledger)
    s.refuses("mirror-foreign")
    s.run("restore", "--from-mirror")
    s.run("replay", "--index")


def ledger_damaged(s: Scratch) -> None:
    with (s.stack.ledger / "ledger.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * 8192)
    s.run("restore", "--from-mirror", code=2)
    s.run("restore", "--from-mirror", "--force")


def entries_damaged(s: Scratch) -> None:
    """Flip a bit in each of several entries, including the last; `serve` is started twice before anyone notices."""
    with closing(sqlite3.connect(s.stack.ledger / "ledger.db")) as connection:
        [(trigger,)] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries_update'")
        connection.execute("DROP TRIGGER entries_update")
        last = connection.execute("SELECT max(position) FROM entries").fetchone()[0]
        for position in {last, *(s.rng.randint(1, last) for _ in range(9))}:
            payload = bytearray(
                connection.execute("SELECT CAST(payload AS BLOB) FROM entries WHERE position = ?", (position,)).fetchone()[0]
            )
            payload[s.rng.randrange(len(payload))] ^= 1 << s.rng.randrange(8)
            connection.execute("UPDATE entries SET payload = CAST(? AS TEXT) WHERE position = ?", (bytes(payload), position))
        connection.execute(trigger)
        connection.commit()
    for _ in range(2):
        start(s)
        if s.stack.stop() != 0:
            raise Wrong("`serve` did not end with 0")
    if "payload-changed" not in s.run("verify", code=1):
        raise Wrong("`verify` does not say payload-changed")
    s.run("restore", "--from-mirror", "--force")


def ledger_volume_lost_backup_at_hand(s: Scratch) -> None:
    empty(s.stack.ledger)
    s.run("restore", "--from-backup", str(s.backup))


def old_backup_restored(s: Scratch) -> None:
    empty(s.stack.ledger)
    s.run("restore", "--from-backup", str(s.old_backup), "--without-mirror", code=1)
    s.refuses("mirror-ahead")
    s.run("restore", "--from-mirror")


def old_backup_and_mirror(s: Scratch) -> None:
    empty(s.stack.ledger)
    s.run("restore", "--from-backup", str(s.old_backup), "--with-mirror")


def archive_volume_lost(s: Scratch) -> None:
    empty(s.stack.archive)
    s.refuses("mirror-missing")
    s.run("replay", "--all", "--source", str(s.copy), "--rate", "10000")


def mirror_lost(s: Scratch) -> None:
    shutil.rmtree(s.stack.archive / ".ledger")
    s.refuses("mirror-missing")
    s.run("replay", "--mirror")


def both_but_the_mirror_lost(s: Scratch) -> None:
    """Keep only the archive volume, with damaged files."""
    empty(s.stack.ledger)
    harm(s)
    s.run("restore", "--from-mirror")
    s.run("replay", "--all", "--source", str(s.copy), "--rate", "10000")


def wrong_archive_mounted(s: Scratch) -> None:
    wrong = s.stack.root / "wrong"
    wrong.mkdir()
    s.refuses("mirror-missing", ARCHIVE_PATH=str(wrong))
    if any(wrong.iterdir()):
        raise Wrong("the wrong archive was written to")


WHO = ("--by", "the drill", "--reason", "it was lost")


def key_of_checkpoints_lost(s: Scratch) -> None:
    empty(s.stack.root / "key")
    s.run("verify")  # so that there is something to sign
    refuses_to_sign(s, "checkpoint-key-missing")
    s.run("checkpoint", "rotate-key", "--lost", *WHO)


def ledger_forked(s: Scratch) -> None:
    """Both volumes are lost, and the only copies are older than the last checkpoint, of which somebody else has a copy."""
    old = s.stack.root / "old"
    for volume in (s.stack.archive, s.stack.ledger):
        shutil.copytree(volume, old / volume.name)
    start(s)
    path = s.stack.uploads / "too-late.dcm"
    s.stack.publish({**described("too-late", path, make_file(path, seed=1)), "file_path": path.name})
    until((s.stack.archive / "too-late" / path.name).exists, 60)
    until(s.stack.idle, 60)
    if s.stack.stop() != 0:
        raise Wrong("`serve` did not end with 0")
    head = s.stack.root / "head"
    head.write_text(s.run("checkpoint"))
    latest = (s.stack.ledger / "checkpoint.latest").read_bytes()
    for volume in (s.stack.archive, s.stack.ledger):
        shutil.rmtree(volume)
        shutil.copytree(old / volume.name, volume)
    if "checkpoint-ahead" not in s.run("verify", "--checkpoint", str(head), code=1):
        raise Wrong("`verify` does not say checkpoint-ahead")
    (s.stack.ledger / "checkpoint.latest").write_bytes(latest)  # as if only ledger.db had been an old copy
    refuses_to_sign(s, "checkpoint-forked")
    s.run("acknowledge", "checkpoint-forked", *WHO)


def refuses_to_sign(s: Scratch, word: str) -> None:
    if word not in s.run("checkpoint", code=2):
        raise Wrong(f"`checkpoint` does not say {word}")


DISASTERS: dict[str, Callable[[Scratch], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        index_lost,
        index_lost_and_served,
        index_wrong_while_serving,
        metadata_lost,
        files_damaged,
        files_damaged_while_serving,
        wrong_deletion,
        status_store_emptied,
        status_store_emptied_while_serving,
        ledger_volume_lost,
        ledger_damaged,
        entries_damaged,
        ledger_volume_lost_backup_at_hand,
        old_backup_restored,
        old_backup_and_mirror,
        archive_volume_lost,
        mirror_lost,
        both_but_the_mirror_lost,
        wrong_archive_mounted,
        key_of_checkpoints_lost,
        ledger_forked,
    )
}


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def start(s: Scratch) -> None:
    """Start `serve`; wait until it is ready and the index has caught up."""
    began = time.monotonic()
    s.stack.start()
    until(s.stack.idle, 120, what="the index to be there")
    s.seconds += time.monotonic() - began


# -- one after another


@dataclass(frozen=True, slots=True)
class Result:
    """`differences`: what did not come back. `seconds`: the time of the recovery's commands alone."""

    disaster: str
    seconds: float
    differences: list[str]
    commands: list[str]


class Drill:
    """An archive of `studies` studies in `folder`, and a copy of it for each disaster. `close` ends what it started."""

    def __init__(self, folder: Path, studies: int, seed: int, valkey: Valkey) -> None:
        self.folder = folder
        self.seed = seed
        self.valkey = valkey
        self.statuses = StatusServer()
        self.warm = Warm()
        self.original = self._stack(folder / "original")
        self.backups = folder / "backups"
        self.sent = 0  # messages
        try:
            populate(self, studies)
        except BaseException:
            self.close()  # its threads would keep the process alive
            raise
        self.before = look(self.original, self.statuses)
        self.kept = dict(self.statuses.statuses)

    def close(self) -> None:
        """End everything still running."""
        self.original.close()
        self.warm.close()
        self.statuses.close()

    def meet(self, name: str) -> Result:
        """Run one disaster and its recovery; return what differs afterwards."""
        root = self.folder / name
        shutil.copytree(self.original.root, root, symlinks=True)
        self.statuses.statuses.clear()
        self.statuses.statuses.update(self.kept)
        stack = self._stack(root)
        old, new = sorted(self.backups.iterdir())
        rng = random.Random(f"{self.seed} {name}")
        copy = self.original.archive
        scratch = Scratch(stack, self.statuses, rng, copy, new, old, self.before, self.warm)
        try:
            DISASTERS[name](scratch)
            differences = self._what_differs(scratch)
        except (Wrong, AssertionError) as error:
            differences = [str(error)]
        finally:
            stack.close()
        shutil.rmtree(root)
        return Result(name, round(scratch.seconds, 2), differences, scratch.commands)

    def _what_differs(self, scratch: Scratch) -> list[str]:
        seconds = scratch.seconds
        stack = scratch.stack
        if stack.process is None or stack.process.poll() is not None:
            start(scratch)
        until(stack.idle, 60, what="all to be done")
        if stack.stop() != 0:
            raise Wrong("`serve` did not end with 0")
        scratch.run("checkpoint")
        found = differences(self.before, look(stack, self.statuses))
        scratch.run("verify")
        scratch.seconds = seconds
        return found

    def _stack(self, root: Path) -> Stack:
        settings = {
            "STATUS_CONFIRM_SECONDS": 0,
            "RECONCILE_SECONDS": 0,
            "MISSING_FILE_GRACE_SECONDS": 0.5,
            "CHECKPOINT_SECONDS": 3600,
            "CHECKPOINT_KEY_FILE": root / "key" / "checkpoint.key",
        }
        (root / "key").mkdir(parents=True, exist_ok=True)
        return Stack(root, self.valkey, self.statuses.url, warm=self.warm, **settings)


def populate(drill: Drill, studies: int) -> None:
    """Let the real service archive the studies, with a backup in the middle and one at the end."""
    stack, rng = drill.original, random.Random(drill.seed)
    stack.start()
    failing: list[Path] = []
    for n in range(studies):
        if n == studies // 2:
            settle(drill, failing)
            back_up(drill)
        study(drill, f"study-{n:05d}", rng, failing)
    settle(drill, failing)
    waiting = json.loads(stack.command("quarantine", "list", "--json").stdout)
    for each in waiting[::3]:
        stack.command("quarantine", "discard", each["study_id"], "--by", "the drill", "--reason", "nobody comes for it")
    settle(drill, failing)
    assert stack.stop() == 0  # a new process need not wait to see whether an outage returns: otherwise each disaster would add its end
    stack.start()
    until(lambda: not has_outage(stack), 60, what="the end of each outage to be recorded")
    assert stack.command("checkpoint").returncode == 0
    back_up(drill)
    until(stack.idle, 60)
    assert stack.stop() == 0


def recorded(stack: Stack) -> int:
    with closing(sqlite3.connect(f"file:{stack.ledger / 'ledger.db'}?mode=ro", uri=True)) as ledger:
        return int(ledger.execute("SELECT count(*) FROM entries WHERE kind IN ('described', 'rejected')").fetchone()[0])


def has_outage(stack: Stack) -> bool:
    ended = "SELECT cause FROM entries WHERE kind = 'recovered' AND cause IS NOT NULL"
    begun = f"SELECT 1 FROM entries WHERE study_id IS NULL AND kind = 'failed' AND position NOT IN ({ended})"
    with closing(sqlite3.connect(f"file:{stack.ledger / 'ledger.db'}?mode=ro", uri=True)) as ledger:
        return ledger.execute(begun).fetchone() is not None


def back_up(drill: Drill) -> None:
    done = drill.original.command("backup", str(drill.backups))
    assert done.returncode == 0, done.stderr


def study(drill: Drill, study_id: str, rng: random.Random, failing: list[Path]) -> None:
    """Make one study, of any sort."""
    stack = drill.original
    sort = rng.choices(
        ("single", "several", "conflict", "twice", "link", "missing", "fails", "rejected"), (70, 10, 5, 5, 3, 3, 2, 2)
    )[0]  # fmt: skip
    names = [f"{study_id}.dcm"]
    if sort == "several":
        names = [f"{study_id}/{i}.dcm" for i in range(rng.randint(2, 4))]
    elif sort == "conflict":
        names = [f"{study_id}/{side}/image.dcm" for side in ("left", "right")]
    for name in names:
        path = stack.uploads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if sort == "link":
            path.symlink_to("/etc/hostname")
            message: dict[str, Any] = {"study_id": study_id, "file_path": name}
        elif sort == "missing":
            message = {"study_id": study_id, "file_path": name}
        elif sort == "rejected":
            stack.publish(rng.choice((b"{", b"[]", b'{"study_id": "../x", "file_path": "a"}', rng.randbytes(200))))
            drill.sent += 1
            return
        else:
            side = rng.choices(*zip(*SIDES, strict=True))[0]
            make_file(path, rows=side, columns=side, patient_id=f"P{rng.randrange(500)}", modality=rng.choice(("CT", "MR")))
            message = {**described(study_id, path), "file_path": name}
        if sort == "fails":  # a folder blocks the name of metadata.json until the study has failed once
            (stack.archive / study_id / ".metadata.json.tmp").mkdir(parents=True)
            failing.append(stack.archive / study_id / ".metadata.json.tmp")
        for _ in range(2 if sort == "twice" else 1):
            stack.publish(message)
            drill.sent += 1


def settle(drill: Drill, failing: list[Path]) -> None:
    """Wait until every message is recorded and nothing is pending: what is to fail has failed once and then succeeded."""
    stack = drill.original
    until(lambda: recorded(stack) >= drill.sent, 60, what=f"{drill.sent} messages to be recorded")
    until(lambda: stack.metric('storage_ledger_pending{stage="place"}') == len(failing), 600, what="all others to be placed")
    for path in failing:
        path.rmdir()
    failing.clear()
    until(stack.idle, 400, every_s=0.1, what="nothing to be pending")


def look(stack: Stack, statuses: StatusServer) -> State:
    """Read the whole state; `serve` must not be running."""
    tree = {}
    for path in sorted(stack.archive.rglob("*")):
        name = str(path.relative_to(stack.archive))
        if path.is_file() and not name.startswith(".ledger/"):
            tree[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode & 0o777)
    with closing(sqlite3.connect(stack.ledger / "ledger.db")) as connection:
        entries = connection.execute("SELECT * FROM entries ORDER BY position").fetchall()
    index = {}
    with closing(sqlite3.connect(stack.ledger / "index.db")) as connection:
        connection.row_factory = sqlite3.Row
        for table in ("studies", "uploads", "files", "series", "dicom_studies"):
            found = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
            rows = [{name: value for name, value in row.items() if name not in FOLLOWS_THEM} for row in found]
            index[table] = sorted(rows, key=lambda row: [str(value) for value in row.values()])
    told = {study_id: str(said["status"]) for study_id, said in statuses.statuses.items()}
    notes = {int(path.name): path.read_bytes() for path in (stack.archive / ".ledger" / "checkpoints").iterdir() if path.is_file()}
    return State(entries, tree, index, told, notes)


def differences(before: State, after: State) -> list[str]:
    """Return the differences as text; none if everything is back and only entries of the recovery were added."""
    found = []
    if after.entries[: len(before.entries)] != before.entries:
        first = next((n for n, (a, b) in enumerate(zip(before.entries, after.entries, strict=False)) if a != b), len(after.entries))
        found.append(f"entries differ from position {first + 1} on")
    added = {entry[4] for entry in after.entries[len(before.entries) :]}
    if added - ADDED_BY_RECOVERY:
        found.append(f"entries of kinds {sorted(added - ADDED_BY_RECOVERY)} were added")
    last = max(before.checkpoints)
    if after.checkpoints.get(last) != before.checkpoints[last]:
        found.append(f"the checkpoint of {last} entries is not what it was")
    found += [
        f"archive: {path} is {after.tree.get(path)}, was {before.tree.get(path)}"
        for path in sorted(before.tree.keys() | after.tree.keys())
        if before.tree.get(path) != after.tree.get(path)
    ]
    found += [f"index: {table} differs" for table, rows in before.index.items() if rows != after.index[table]]
    found += [
        f"status: {study_id} is {after.statuses.get(study_id)}, was {status}"
        for study_id, status in before.statuses.items()
        if after.statuses.get(study_id) != status
    ]
    return found


def main() -> int:
    """Return 0 if everything came back; 1 if something did not."""
    parser = argparse.ArgumentParser(prog="scripts/drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="NAME", choices=DISASTERS, help="this one; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md; takes all disasters")
    parser.add_argument("--list", action="store_true", help="the disasters' names")
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("--write replaces the whole table: leave out --only")
    if given.list:
        print("\n".join(DISASTERS))
        return 0
    results = []
    measured = conditions()
    with tempfile.TemporaryDirectory(prefix="drill-") as name:
        folder = Path(name)
        (folder / "valkey").mkdir()
        valkey = Valkey(folder / "valkey")
        valkey.start()
        print(f"the service makes an archive of {given.studies} studies, for all that is to be lost", flush=True)
        began = time.monotonic()
        drill = Drill(folder, given.studies, given.seed, valkey)
        size = sum(path.stat().st_size for path in drill.original.archive.rglob("*") if path.is_file())
        counts = f"{given.studies} studies, {len(drill.before.tree)} files, {size / 1e6:.0f} MB, {len(drill.before.entries)} entries"
        print(f"{counts}, made in {time.monotonic() - began:.0f} s", flush=True)
        try:
            for disaster in given.only or DISASTERS:
                result = drill.meet(disaster)
                results.append(result)
                print(f"{disaster:36} {result.seconds:7.1f} s   {'came back' if not result.differences else 'DID NOT'}", flush=True)
                for line in result.differences[:5]:
                    print(f"    {line}", flush=True)
        finally:
            drill.close()
            valkey.stop()
    wrong = sum(bool(result.differences) for result in results)
    if given.json is not None:
        document = {"made": counts, "seed": given.seed, "disasters": [asdict(result) for result in results]}
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if given.write:
        rows = [(each.disaster, f"{each.seconds:.1f}", "NO" if each.differences else "yes") for each in results]
        text = table(("disaster", "seconds to recover", "all came back"), rows)
        write_table(ROOT / "docs" / "reliability.md", "drill", f"{measured} Seed {given.seed}; {counts}.\n\n{text}")
    print(f"{len(results) - wrong} of {len(results)} came back")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
