"""The mirror's purpose: a lost, emptied or old ledger is detected before anything is done, and restored from the mirror."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.stack import Stack
from tests.support.volumes import Volume
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url)
    yield stack
    stack.close()


def archive(stack: Stack, status_server, prefix: str, count: int) -> dict[str, bytes]:
    files = {}
    for i in range(count):
        study_id = f"{prefix}-{i:02d}"
        message, files[study_id] = upload(stack, study_id, seed=i)
        stack.publish(message)
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
    until(stack.idle, 30, what="nothing to be pending")
    return files


def entries(stack: Stack) -> list[tuple]:
    connection = sqlite3.connect(f"file:{stack.ledger}/ledger.db?mode=ro", uri=True)
    found = connection.execute("SELECT * FROM entries ORDER BY position").fetchall()
    connection.close()
    return found


def refused(stack: Stack, code: str) -> str:
    """Assert that `serve` exits with 2 immediately; return its output."""
    done = stack.command("serve")
    assert done.returncode == 2
    assert f"storage-ledger: {code}: " in done.stderr
    return done.stderr


def test_a_lost_ledger_volume_is_refused_and_restored_from_the_mirror(stack, status_server):
    stack.start()
    files = archive(stack, status_server, "a", 25)
    stack.publish(b"not json")
    until(stack.idle, 30)
    assert stack.stop() == 0
    before = entries(stack)
    shutil.rmtree(stack.ledger)
    stack.ledger.mkdir()
    assert "restore --from-mirror" in refused(stack, "mirror-foreign")
    assert "restore --from-mirror" in refused(stack, "mirror-foreign")  # the empty ledger made by the first start does not count
    done = stack.command("restore", "--from-mirror")
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} entries" in done.stdout
    assert entries(stack) == before
    assert stack.command("restore", "--from-mirror", "--json").returncode == 0  # once more changes nothing
    stack.start()
    until(stack.idle, 30)
    assert entries(stack) == before
    files |= archive(stack, status_server, "b", 3)
    assert_archived(stack, files)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def test_an_old_backup_of_the_ledger_is_refused_and_gets_what_it_lacks(stack, status_server, tmp_path):
    stack.start()
    files = archive(stack, status_server, "a", 5)
    assert stack.stop() == 0
    shutil.copytree(stack.ledger, tmp_path / "backup")
    stack.start()
    files |= archive(stack, status_server, "b", 5)
    assert stack.stop() == 0
    before = entries(stack)
    shutil.rmtree(stack.ledger)
    shutil.copytree(tmp_path / "backup", stack.ledger)
    assert "restore --from-mirror" in refused(stack, "mirror-ahead")
    assert stack.command("status").returncode == 1
    assert stack.command("restore", "--from-mirror").returncode == 0
    assert entries(stack) == before
    stack.start()
    until(stack.idle, 30)
    assert_archived(stack, files)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def test_no_status_is_sent_and_no_upload_removed_before_its_entry_is_mirrored(stack, status_server):
    stack.start()
    files = archive(stack, status_server, "a", 1)
    segment = stack.archive / ".ledger" / "000000000001.entries"
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", segment], capture_output=True, check=False).returncode:
        pytest.skip("no file can be made immutable here")
    try:
        for i in range(5):
            message, files[f"b-{i}"] = upload(stack, f"b-{i}", seed=i)
            stack.publish(message)
        until(lambda: stack.metric('storage_ledger_outage{code="archive-not-writable",step="mirror"}') == 1, 30, what="the outage")
        until(lambda: stack.metric('storage_ledger_pending{stage="remove"}') == 5, 30, what="all to be archived")
        assert len(list(stack.uploads.iterdir())) == 5
        assert [status_server.status(f"b-{i}") for i in range(5)] == [None] * 5
        assert stack.check(settled=False)["violations"] == []
        assert "archive-not-writable" in stack.get("/readyz")[1]
    finally:
        subprocess.run(["chattr", "-i", segment], check=True)
    until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be told")
    until(stack.idle, 30)
    assert_archived(stack, files)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def test_a_new_archive_volume_is_refused_until_it_is_said_that_it_is_new(stack, status_server):
    stack.start()
    archive(stack, status_server, "a", 5)
    assert stack.stop() == 0
    stack.archive.rename(stack.root / "old-archive")
    assert "mounted" in refused(stack, "mirror-missing")
    stack.archive.mkdir()
    assert "replay --mirror" in refused(stack, "mirror-missing")
    assert list(stack.archive.iterdir()) == []
    done = stack.command("replay", "--mirror")
    assert (done.returncode, done.stdout) == (0, f"Mirror: {len(entries(stack))} entries were rebuilt.\n")
    stack.start()
    until(stack.idle, 30)
    archive(stack, status_server, "b", 2)
    assert stack.stop() == 0


def test_another_ledgers_archive_is_refused(stack, status_server, tmp_path, valkey):
    stack.start()
    archive(stack, status_server, "a", 2)
    assert stack.stop() == 0
    other = Stack(tmp_path / "other", valkey, status_server.url)
    other.start()
    archive(other, status_server, "b", 2)
    assert other.stop() == 0
    other.environment["ARCHIVE_PATH"] = str(stack.archive)
    assert "wrong volume" in refused(other, "mirror-foreign")
    assert other.command("restore", "--from-mirror").returncode == 2
    assert len(entries(other)) == 6


def test_a_damaged_mirror_is_not_restored_from_and_nothing_is_touched(stack, status_server):
    stack.start()
    archive(stack, status_server, "a", 5)
    assert stack.stop() == 0
    shutil.rmtree(stack.ledger)
    file = stack.archive / ".ledger" / "000000000001.entries"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"archived", b"archivee", 1))
    done = stack.command("restore", "--from-mirror")
    assert done.returncode == 2
    assert "mirror-damaged: .ledger/000000000001.entries, line " in done.stderr
    assert {path.name for path in stack.ledger.iterdir()} <= {"serve.lock", "repair.lock"}  # nor is anything left half made


def test_a_ledger_that_cannot_be_read_or_was_changed_is_set_aside_for_the_mirrors_only_when_that_is_said(stack, status_server):
    stack.start()
    archive(stack, status_server, "a", 3)
    assert stack.stop() == 0
    before, file = entries(stack), stack.ledger / "ledger.db"
    other = sqlite3.connect(file)
    for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        other.execute(f"DROP TRIGGER {name}")
    other.execute("UPDATE entries SET payload = '{}' WHERE position = 2")
    other.commit()
    other.close()
    done = stack.command("restore", "--from-mirror")
    assert (done.returncode, "Entry 2 of the ledger is damaged" in done.stdout, "--force" in done.stdout) == (1, True, True)
    assert entries(stack) != before, "what is there is kept"
    assert stack.command("restore", "--from-mirror", "--force").returncode == 0
    assert entries(stack) == before

    file.write_bytes(b"no database".ljust(8192))
    assert "restore --from-mirror --force" in refused(stack, "ledger-damaged")
    assert "ledger-damaged" in stack.command("restore", "--from-mirror").stderr
    done = stack.command("restore", "--from-mirror", "--force")
    assert done.returncode == 0, done.stderr
    assert entries(stack) == before
    aside = sorted(path for path in stack.ledger.glob("ledger.db.before-restore-*") if path.suffix[-4:] not in {"-wal", "-shm"})
    assert aside[-1].read_bytes().startswith(b"no database"), "it is kept"

    mirror = stack.archive / ".ledger" / "000000000001.entries"
    mirror.write_bytes(mirror.read_bytes().replace(b"archived", b"archivee", 1))
    assert "mirror-damaged" in stack.command("restore", "--from-mirror", "--force").stderr
    assert entries(stack) == before, "nothing is set aside for a mirror that is damaged"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, and a service that is not")
def test_what_root_makes_good_belongs_to_the_user_of_the_service(stack, status_server, tmp_path):
    stack.start()
    archive(stack, status_server, "a", 5)
    assert stack.stop() == 0
    backups, copy = tmp_path / "backups", tmp_path / "copy"
    shutil.copytree(stack.archive, copy)
    backups.mkdir()
    for path in (*stack.ledger.glob("*.lock"), *stack.ledger.glob("index.db*")):
        path.unlink()
    shutil.rmtree(stack.archive / "a-00")
    (stack.archive / "a-01" / "metadata.json").write_text("{")
    (stack.archive / "a-02" / "a-02.dcm").unlink()
    (stack.archive / "a-02" / "a-02.dcm").mkdir()
    places = (stack.ledger, stack.archive, backups)
    for place in places:
        for path in (place, *place.rglob("*")):
            os.chown(path, 10001, 10002)
    for command in (
        ("replay", "--all", "--source", str(copy)),
        ("verify",),
        ("backup", str(backups / "nightly")),
        ("replay", "--mirror"),
        ("restore", "--from-mirror", "--force"),
        ("restore", "--from-backup", str(backups / "nightly"), "--force", "--with-mirror"),
        ("replay",),
    ):
        done = stack.command(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    owners = {str(path): (path.lstat().st_uid, path.lstat().st_gid) for place in places for path in (place, *place.rglob("*"))}
    assert {path: owner for path, owner in owners.items() if owner != (10001, 10002)} == {}


def test_restore_and_replay_wait_for_no_running_service(stack, status_server):
    stack.start()
    archive(stack, status_server, "a", 1)
    for command in (("restore", "--from-mirror"), ("replay", "--mirror")):
        done = stack.command(*command)
        assert done.returncode == 11
        assert "storage-ledger serve" in done.stderr
    assert stack.stop() == 0


def test_a_restore_that_was_killed_is_run_again(stack, status_server):
    stack.start()
    archive(stack, status_server, "a", 40)
    assert stack.stop() == 0
    before = entries(stack)
    shutil.rmtree(stack.ledger)
    for nth in (2, 6, 9, 10):  # fsyncs of migration, appends, the finished file, its folder
        under = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync,fdatasync,rename",
            "-e",
            f"inject=fsync,fdatasync,rename:signal=SIGKILL:when={nth}",
        ]
        if shutil.which("strace") is None:
            pytest.skip("strace is not here")
        arguments = [*under, sys.executable, "-m", "storage_ledger", "restore", "--from-mirror"]
        done = subprocess.run(arguments, env=stack.environment, capture_output=True, check=False, timeout=60)
        assert done.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}, nth
    assert stack.command("restore", "--from-mirror").returncode == 0
    assert entries(stack) == before
    stack.start()
    until(stack.idle, 30)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def test_an_archive_that_comes_off_is_waited_for_and_nothing_is_written_where_it_was(stack, status_server, tmp_path):
    volume = Volume(tmp_path / "archive.img", tmp_path / "mounted")
    stack.archive = volume.mount_point / "archive"
    stack.archive.mkdir()
    stack.environment["ARCHIVE_PATH"] = str(stack.archive)
    try:
        stack.start()
        files = archive(stack, status_server, "a", 3)
        subprocess.run(["umount", "--lazy", volume.mount_point], check=True)
        stack.archive.mkdir()  # the folder exists on the disk below the mount point
        for i in range(3):
            message, files[f"b-{i}"] = upload(stack, f"b-{i}", seed=i)
            stack.publish(message)
        until(lambda: stack.get("/readyz")[0] == 503 and "archive-missing" in stack.get("/readyz")[1], 30, what="readyz to say so")
        assert os.listdir(stack.archive) == []
        assert len(list(stack.uploads.iterdir())) == 3
        stack.archive.rmdir()
        volume.plug_in()
        until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
        until(stack.idle, 30)
        until(lambda: stack.get("/readyz")[0] == 200, 30, what="it to be ready again")
        assert_archived(stack, files)
        assert stack.check()["violations"] == []
        assert stack.stop() == 0
    finally:
        stack.close()
        if os.path.ismount(volume.mount_point):
            volume.unplug()
