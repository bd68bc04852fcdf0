"""`storage-ledger replay` re-creates what was lost, and it equals the original, checksum by checksum."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite
from tests.integration.test_lost_volumes import entries
from tests.integration.test_the_way_of_one_event import upload
from tests.property.test_index_properties import rows
from tests.recovery.tracing import needs_strace
from tests.support.making import damage as damage_ledger
from tests.support.making import fill as fill_up
from tests.support.making import small_volume
from tests.support.pipeline import tree
from tests.support.stack import Stack
from tests.support.status_server import StatusServer
from tests.support.waiting import until

SEED = int(os.environ.get("REPLAY_SEED", "7"))
KILLS = int(os.environ.get("REPLAY_KILLS", "2"))
STUDIES = int(os.environ.get("REPLAY_STUDIES", "20"))


SETTINGS = {"MISSING_FILE_GRACE_SECONDS": 0, "STATUS_CONFIRM_SECONDS": 0.02}


@pytest.fixture(scope="module")
def template(tmp_path_factory, valkey_server, warm):
    """Make the folders of a stopped service and the statuses of its Status Service, with studies of every kind.

    Studies with several files, different files with equal names, redelivered, quarantined and rejected ones.
    """
    status_server = StatusServer()
    valkey_server.start()
    stack = Stack(tmp_path_factory.mktemp("filled"), valkey_server, status_server.url, warm=warm, **SETTINGS)
    try:
        fill(stack, status_server)
    finally:
        stack.close()
        status_server.close()
    return stack.root, status_server.statuses


@pytest.fixture
def stack(template, tmp_path, valkey, status_server, warm):
    """A copy of the template with its own neighbours."""
    root, statuses = template
    shutil.copytree(root, tmp_path / "stack", symlinks=True)
    made = Stack(tmp_path / "stack", valkey, status_server.url, warm=warm, **SETTINGS)
    status_server.statuses |= {study_id: dict(value) for study_id, value in statuses.items()}
    yield made
    made.close()


def fill(stack, status_server):
    stack.start()
    messages = [upload(stack, f"s-{i:04d}", seed=i)[0] for i in range(STUDIES)]
    for i, message in enumerate(messages):
        study_id = message["study_id"]
        if i % 5 == 0:  # two more files, one of the same name
            for folder, seed in (("more", 1000 + i), ("other", 2000 + i)):
                (stack.uploads / folder).mkdir(exist_ok=True)
                upload(stack, f"{folder}/{study_id}", seed=seed)
                messages.append({**message, "file_path": f"{folder}/{study_id}.dcm"})
        stack.publish(message)
    for message in messages[STUDIES:]:
        stack.publish(message)
    stack.publish({"study_id": "gone", "file_path": "gone.dcm"})
    stack.publish({"study_id": "bad", "file_path": "/etc/passwd"})
    until(lambda: status_server.status("gone") == status_server.status("bad") == "failed", 30)
    until(lambda: all(status_server.status(m["study_id"]) == "archived" for m in messages), 60)
    until(stack.idle, 30)
    until(lambda: stack.metric('storage_ledger_pending{stage="confirm"}') == 0, 60, what="the read-backs to end")
    assert stack.stop() == 0


def replay(stack, *arguments, code=0):
    """Run it; return its JSON, which log lines may precede."""
    ended, said = command(stack, *arguments, "--json")
    assert ended == code, said
    return json.loads(said[said.index('{\n  "dry_run"') :])


def command(stack, *arguments) -> tuple[int, str]:
    """Run it; return its exit code and its output."""
    said = stack.root / "replay.said"
    said.unlink(missing_ok=True)
    return stack.warm.start(stack.environment, said, stack.root, "storage-ledger", "replay", *arguments).wait(60), said.read_text()


def archived(stack) -> dict[str, str]:
    """Return every file of the archive except the mirror: path → SHA-256."""
    return {path: digest for path, digest in tree(stack.archive).items() if not path.startswith(".ledger/")}


def restored(stack) -> list[dict]:
    return [{"study_id": row[2], **json.loads(row[8])} for row in entries(stack) if row[4] == "restored"]


def test_everything_comes_back_from_the_ledger_and_a_copy_of_the_files(stack, status_server, tmp_path):
    before, told = archived(stack), dict(status_server.statuses)
    log = entries(stack)
    index = rows(stack.ledger / "index.db")
    stack.archive.rename(tmp_path / "old")
    stack.archive.mkdir()
    for file in stack.ledger.glob("index.db*"):
        file.unlink()
    status_server.forget()
    source = tree(tmp_path / "old")

    looked = replay(stack, "--all", "--source", str(tmp_path / "old"), "--dry-run")
    assert {name: part["mended"] > 0 for name, part in looked["parts"].items()} == dict.fromkeys(
        ["mirror", "files", "metadata", "index", "statuses"], True
    )
    assert (list(stack.archive.iterdir()), entries(stack), status_server.statuses) == ([], log, {})
    assert not (stack.ledger / "index.db").exists()

    done = replay(stack, "--all", "--source", str(tmp_path / "old"))
    assert done["findings"] == []
    assert {name: part["mended"] for name, part in done["parts"].items() if name in {"files", "metadata", "statuses"}} == {
        name: part["mended"] for name, part in looked["parts"].items() if name in {"files", "metadata", "statuses"}
    }
    assert archived(stack) == before
    assert tree(tmp_path / "old") == source
    assert {s: v["status"] for s, v in status_server.statuses.items()} == {s: v["status"] for s, v in told.items()}
    assert status_server.statuses["bad"]["details"] == told["bad"]["details"] == {"error": "unsafe-path"}
    added = entries(stack)[len(log) :]
    assert entries(stack)[: len(log)] == log
    files = [path for path in before if not path.endswith("/metadata.json")]
    assert {row[4] for row in added} == {"restored", "status-sent"}
    assert sorted(f"{each['study_id']}/{each['file']['name']}" for each in restored(stack)) == sorted(files)
    assert all(before[f"{each['study_id']}/{each['file']['name']}"] == each["file"]["sha256"] for each in restored(stack))
    assert {row["found"] for row in restored(stack)} == {"missing"}

    again = replay(stack, "--all")
    assert {name: part["mended"] for name, part in again["parts"].items() if name != "index"} == dict.fromkeys(
        ["mirror", "files", "metadata", "statuses"], 0
    )
    stack.start()
    until(stack.idle, 30)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0
    now = rows(stack.ledger / "index.db")
    last = {row[0]: row[21] for row in now["studies"]}
    assert {row[:21] for row in now["studies"]} == {row[:21] for row in index["studies"]}
    assert last != {row[0]: row[21] for row in index["studies"]}, "the entries that say what was done"
    follows = {"studies", "files", "progress"}  # of a file: that it was checked when it was put back
    assert {name: now[name] for name in now if name not in follows} == {name: index[name] for name in index if name not in follows}
    assert {row[:17] + row[20:] for row in now["files"]} == {row[:17] + row[20:] for row in index["files"]}


def test_damaged_files_are_set_aside_and_intact_ones_left_alone(stack, tmp_path):
    before = archived(stack)
    shutil.copytree(stack.archive, tmp_path / "backup")
    first, second, third, fourth = (f"s-{number:04d}/s-{number:04d}.dcm" for number in (1, 2, 3, 5))
    damaged = stack.archive / first
    os.chmod(damaged, 0o640)
    damaged.write_bytes(b"damaged")
    (stack.archive / second).unlink()
    (stack.archive / third).unlink()
    (stack.archive / third).symlink_to("/etc/hostname")
    (stack.archive / fourth).unlink()
    (stack.archive / fourth).mkdir()
    (stack.archive / Path(second).parent / "metadata.json").unlink()
    (stack.archive / Path(first).parent / "metadata.json").write_text("{}")
    inodes = {path: os.stat(stack.archive / path).st_ino for path in archived(stack)}

    lost = replay(stack, "--files", code=1)
    assert [(each["code"], each["path"]) for each in lost["findings"]] == [
        ("archive-copy-changed", first),
        ("archive-copy-missing", second),
        ("archive-copy-changed", third),
        ("archive-copy-changed", fourth),
    ]
    assert all(each["position"] for each in lost["findings"])
    assert damaged.read_bytes() == b"damaged"
    for wrong in (("--by", "Jane"), ("--files", "--by", "Jane"), ("--files", "--by", "Jane", "--reason", " ")):
        assert command(stack, *wrong)[0] == 2
    asked = ("--by", "Jane Doe", "--reason", "the disk was replaced")
    done = replay(stack, "--files", "--metadata", "--source", str(tmp_path), "--source", str(tmp_path / "backup"), *asked)
    assert (done["parts"]["files"]["mended"], done["parts"]["metadata"]["mended"]) == (4, 2)
    assert archived(stack) == before
    assert oct(damaged.stat().st_mode & 0o777) == "0o440"
    assert {(each["by"], each["reason"]) for each in restored(stack)} == {("Jane Doe", "the disk was replaced")}
    asides = {each["file"]["name"]: each.get("set_aside") for each in restored(stack)}
    assert (stack.archive / asides[Path(first).name]).read_bytes() == b"damaged"
    assert os.readlink(stack.archive / asides[Path(third).name]) == "/etc/hostname"
    assert (stack.archive / asides[Path(fourth).name]).is_dir()
    assert asides[Path(second).name] is None
    new = {path for path in before if os.stat(stack.archive / path).st_ino != inodes.get(path)}
    assert new == {first, second, third, fourth, "s-0001/metadata.json", "s-0002/metadata.json"}
    stack.start()
    assert [command(stack, part)[0] for part in ("--metadata", "--all", "--mirror")] == [11] * 3
    assert replay(stack, "--files", "--metadata", "--dry-run")["findings"] == []
    assert stack.stop() == 0


def test_an_index_is_rebuilt_while_the_service_appends(stack, status_server):
    stack.start()
    stop = threading.Event()
    sent: list[str] = []

    def publish():
        while not stop.is_set():
            sent.append(f"new-{len(sent):05d}")
            stack.publish(upload(stack, sent[-1], b"bytes of " + sent[-1].encode())[0])
            until(lambda: status_server.status(sent[-1]) == "archived", 60)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        assert replay(stack)["parts"]["index"]["mended"] > 0
        for file in stack.ledger.glob("index.db*"):
            file.unlink(missing_ok=True)
        assert command(stack, "--index")[0] in {0, 11}  # the service may have begun by itself
    finally:
        stop.set()
        thread.join()
    until(lambda: all(status_server.status(study_id) == "archived" for study_id in sent), 60)
    until(stack.idle, 30)
    until(lambda: stack.metric('storage_ledger_pending{stage="confirm"}') == 0, 60)
    until(stack.idle, 30)
    followed = rows(stack.ledger / "index.db")
    assert stack.stop() == 0
    assert "index.unreadable" not in stack.log.read_text()
    replay(stack)
    assert rows(stack.ledger / "index.db") == followed
    assert {row[0] for row in followed["studies"]} >= set(sent)


def test_an_index_removed_while_the_service_runs_is_rebuilt_automatically(stack):
    stack.start()
    until(stack.idle, 30)
    before = rows(stack.ledger / "index.db")
    for file in stack.ledger.glob("index.db*"):
        file.unlink()
    until(lambda: (stack.ledger / "index.db").exists() and "studies" in tables(stack.ledger / "index.db"), 30)
    until(stack.idle, 30)
    assert rows(stack.ledger / "index.db") == before
    assert stack.stop() == 0


def tables(file: Path) -> set[str]:
    with closing(sqlite.connect(file)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--study", "s-0001"), "--study needs"),
        (("--index", "--study", "s-0001"), "--study needs"),
        (("--mirror", "--all", "--study", "s-0001"), "--study needs"),
        (("--metadata", "--study", "../x"), "not a valid study_id"),
        (("--metadata", "--study", "nobody"), "study-unknown"),
        (("--metadata", "--source", "/"), "--source needs"),
        (("--files", "--source", "/nowhere"), "does not exist"),
        (("--statuses", "--rate", "0"), "--rate"),
    ],
)
def test_what_does_not_go_together_is_said_and_nothing_is_done(stack, arguments, says):
    def kept() -> dict[str, str]:
        passing = (".lock", "-shm", "-wal", "replay.said")
        return {path: digest for path, digest in tree(stack.root).items() if not path.endswith(passing)}

    before = kept()
    code, said = command(stack, *arguments)
    assert code == 2
    assert says in " ".join(said.replace("│", " ").split())
    assert kept() == before


def test_one_study_alone_comes_back_and_a_person_reads_what_was_done(stack, status_server, tmp_path):
    before = archived(stack)
    shutil.copytree(stack.archive / "s-0001", tmp_path / "copy")
    for study_id in ("s-0001", "s-0002"):
        shutil.rmtree(stack.archive / study_id)
        status_server.forget(study_id)
    code, said = command(stack, "--all", "--study", "s-0001", "--source", str(tmp_path / "copy"))
    assert code == 0
    assert [line.split(":")[0] for line in said.splitlines() if "were" in line] == ["Files", "metadata.json", "Statuses"]
    assert {path for path in before if path not in archived(stack)} == {"s-0002/s-0002.dcm", "s-0002/metadata.json"}
    assert (status_server.status("s-0001"), status_server.status("s-0002")) == ("archived", None)
    code, said = command(stack, "--files", "--source", str(tmp_path / "copy"))
    assert code == 1
    assert "archive-copy-missing: s-0002/s-0002.dcm" in said
    assert "Name more folders with --source" in said
    story = json.loads(stack.command("show", "s-0001", "--json").stdout)["entries"]
    assert f"restored: s-0001.dcm (was missing), from {tmp_path}/copy/s-0001.dcm" in [each["summary"] for each in story]


def test_an_archive_without_a_mirror_is_taken_for_one_that_is_not_mounted(stack):
    shutil.rmtree(stack.archive / ".ledger")
    for part in ("--files", "--metadata", "--statuses"):
        code, said = command(stack, part)
        assert code == 2
        assert "mirror-missing" in said
    assert not (stack.archive / ".ledger").exists()
    assert replay(stack, "--all")["mirrored"] > 0
    assert replay(stack, "--files")["findings"] == []


@pytest.fixture
def segments(stack, monkeypatch):
    """Split the mirror into several segments, like that of a larger ledger."""
    monkeypatch.setattr("storage_ledger.ledger.mirror.segments.SEGMENT_ENTRIES", 20)
    with closing(SqliteLedger(stack.ledger / "ledger.db")) as ledger:
        Mirror(stack.archive, stack.ledger / "mirror.lock", ledger).rewrite()
    shutil.rmtree(stack.archive / ".ledger/damaged")
    found = sorted((stack.archive / ".ledger").glob("*.entries"))
    assert len(found) > 3
    return found


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("number", "how"), [(0, Path.unlink), (1, Path.unlink), (0, flip_a_bit), (2, flip_a_bit)])
def test_all_reads_the_mirror_and_rebuilds_a_damaged_one(stack, segments, number, how):
    count = len(entries(stack))
    assert replay(stack, "--all")["parts"]["mirror"] == {"looked_at": count, "mended": 0, "left": 0, "bytes": 0}
    how(segments[number])
    damaged = tree(stack.archive / ".ledger")
    assert replay(stack, "--all", "--dry-run")["mirrored"] == count
    assert tree(stack.archive / ".ledger") == damaged
    code, said = command(stack, "--all")
    assert (code, "mirror-damaged: .ledger/" in said) == (0, True), said
    assert f"Mirror: {count:,} entries were rebuilt." in said
    assert sorted(tree(stack.archive / ".ledger/damaged").values()) == sorted(damaged.values()), "set aside"
    assert stack.command("verify").returncode == 0


def test_a_damaged_mirror_stays_where_the_ledger_is_damaged_as_well(stack, segments):
    flip_a_bit(segments[1])
    before = tree(stack.archive / ".ledger")
    with closing(SqliteLedger(stack.ledger / "ledger.db")) as ledger:
        damage_ledger(ledger, "UPDATE entries SET payload = payload || ' ' WHERE position = 3")
    code, said = command(stack, "--all")
    assert code == 1, said
    assert "The mirror is damaged and was left unchanged." in said
    assert f"mirror-damaged: .ledger (.ledger/{segments[1].name}, line" in said
    assert "the ledger's entry at position 3 is also damaged" in said
    assert tree(stack.archive / ".ledger") == before


def test_a_part_that_ended_early_is_not_reported_as_done(stack):
    shutil.rmtree(stack.archive)
    with small_volume(stack.archive, "1m"):
        fill_up(stack.archive / "ballast")
        code, said = command(stack, "--all")
        assert (code, "archive-full" in said) == (2, True), said
        lines = [line for line in said.splitlines() if line.startswith(("The ", "Files", "metadata", "Statuses", "Not started"))]
        assert lines == ["The mirror was not rebuilt.", "Not started: files, metadata, index, statuses."]


def test_existing_statuses_are_not_resent_and_a_neighbours_status_is_kept(stack, status_server):
    stack.start()
    told = {study_id: value["status"] for study_id, value in status_server.statuses.items()}
    posts = len(status_server.posts)
    assert replay(stack, "--statuses")["parts"]["statuses"] == {"looked_at": len(told), "mended": 0, "left": 0, "bytes": 0}
    assert len(status_server.posts) == posts
    status_server.forget("s-0001")
    status_server.forget("s-0002")
    status_server.late_described("s-0003", {"late": True})
    status_server.statuses["s-0004"] = {"status": "validation_failed", "timestamp": "", "details": None}
    status_server.forget("bad")
    assert replay(stack, "--statuses", "--study", "s-0001")["parts"]["statuses"]["mended"] == 1
    assert replay(stack, "--statuses", "--rate", "1000")["parts"]["statuses"]["mended"] == 3
    assert {study_id: value["status"] for study_id, value in status_server.statuses.items()} == {**told, "s-0004": "validation_failed"}
    until(stack.idle, 30)
    sent = [json.loads(row[8]) for row in entries(stack)[-4:]]
    assert [each["reason"] for each in sent] == ["overwritten"] * 4
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def damage(stack, names: list[str], number: int) -> int:
    """Remove some studies, and remove or overwrite files of others; return how many files are damaged or missing."""
    gone = {path.split("/")[0] for path in names[number % 4 :: 4]}
    for study_id in gone:
        shutil.rmtree(stack.archive / study_id)
    changed = [path for path in names[(number + 1) % 4 :: 4] if path.split("/")[0] not in gone]
    for path in changed:
        (stack.archive / path).unlink()
        if number % 2 or path > "s-0004":
            (stack.archive / path).write_bytes(b"damaged")
    return len(changed) + sum(path.split("/")[0] in gone for path in names)


CALLS = ("fsync,fdatasync", "linkat,link", "renameat,rename", "unlinkat,unlink", "pwrite64,write", "mkdir")


@pytest.mark.timeout(120 + 5 * KILLS)
def test_a_replay_that_was_killed_or_met_an_error_is_run_again(stack, tmp_path):
    needs_strace()
    before = archived(stack)
    shutil.copytree(stack.archive, tmp_path / "backup")
    names = sorted(path for path in before if not path.endswith("/metadata.json"))
    source = ("--all", "--source", str(tmp_path / "backup"))
    faults = [f"{call}:signal=SIGKILL:when={nth}" for call in CALLS for nth in range(1, 16)]
    faults += [f"{call}:error=EIO:when={nth}" for call in CALLS[:-2] for nth in range(1, 16)]
    points = iter(random.Random(SEED).choices(faults, k=KILLS))
    killed = number = 0
    while some := list(islice(points, 2)):
        number += 1
        lost = damage(stack, names, number)
        told = len(restored(stack))
        for fault in some:  # strace counts the calls of each thread separately
            looked_at = f"trace={fault.partition(':')[0]}"
            under = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", looked_at, "-e", f"inject={fault}"]
            arguments = [*under, sys.executable, "-m", "storage_ledger", "replay", *source]
            done = subprocess.run(arguments, env=stack.environment, capture_output=True, check=False, timeout=60)
            assert done.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL, 0} or ("EIO" in fault and done.returncode in {1, 2}), (
                done.stderr
            )
            assert b"internal-error" not in done.stderr
            killed += done.returncode != 0
        assert replay(stack, *source)["findings"] == []
        assert archived(stack) == before, some
        put_back = [f"{each['study_id']}/{each['file']['name']}" for each in restored(stack)[told:]]
        assert (len(put_back), len(set(put_back))) == (lost, lost), some
    assert killed
    stack.start()
    until(stack.idle, 30)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0
