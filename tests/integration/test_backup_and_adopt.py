"""Commands beside the real service: a backup while it works, a ledger restored from it, an old archive adopted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
import typer

from storage_ledger.cli.main import app as command_line
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.errors import BackupError, LedgerUnusable, Retryable
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.mirror.reader import mirror_position
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.adopt.adoption import AdoptPlan
from storage_ledger.settings import Settings
from storage_ledger.wiring import adopt, backup
from tests.integration.test_lost_volumes import archive, entries
from tests.integration.test_the_way_of_one_event import assert_archived
from tests.support.old_archive import BROKEN, REMARKS, add_broken, add_study, picture
from tests.support.stack import Stack
from tests.support.waiting import until


class Commanded(Stack):
    """A stack whose commands are forked, too."""

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit code and its output."""
        assert self.warm is not None
        log = self.root / "command.log"
        log.write_bytes(b"")
        code = self.warm.start(self.environment, log, self.root, "storage-ledger", *arguments).wait(60)
        return code, log.read_text()


@pytest.fixture
def stack(tmp_path, valkey, status_server, warm):
    stack = Commanded(tmp_path, valkey, status_server.url, warm=warm)
    yield stack
    stack.close()


def test_a_backup_of_the_running_service_brings_back_a_lost_ledger_with_what_the_mirror_adds(stack, status_server, tmp_path):
    backups = str(tmp_path / "backups")
    stack.start()
    files = archive(stack, status_server, "a", 3)
    code, said = stack.run("backup", backups, "--json")
    assert code == 0, said
    made = json.loads(said)
    assert made["position"] == len(entries(stack)) == 9
    files |= archive(stack, status_server, "b", 3)
    assert stack.run("restore", "--from-backup", backups)[0] == 11
    assert stack.stop() == 0
    before = entries(stack)
    code, said = stack.run("restore", "--from-backup", backups)
    assert (code, said.split(": ")[1]) == (2, "backup-older")
    shutil.rmtree(stack.ledger)
    code, said = stack.run("restore", "--from-backup", backups)  # without a terminal it does not ask, and reports what is missing
    assert code == 1, said
    assert f"continues to position {len(before)}: `storage-ledger restore --from-mirror`" in said
    assert entries(stack) == before[: made["position"]]
    code, said = stack.run("serve")
    assert (code, "mirror-ahead" in said, "restore --from-mirror" in said) == (2, True, True)
    shutil.rmtree(stack.ledger)
    code, said = stack.run("restore", "--from-backup", made["backup"], "--with-mirror", "--json")
    assert code == 0, said
    assert json.loads(said)["appended"] == len(before) - made["position"]
    assert entries(stack) == before
    stack.start()
    until(stack.idle, 30)
    assert_archived(stack, files)
    assert stack.check()["violations"] == []
    assert stack.stop() == 0


def settings(tmp_path) -> Settings:
    return Settings(uploads_path=tmp_path / "uploads", archive_path=tmp_path / "archive", ledger_path=tmp_path / "ledger")


@pytest.fixture
def umask():
    """Restore the umask, which commands set for their process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_backup_does_not_go_where_the_service_keeps_its_own(tmp_path):
    made = settings(tmp_path)
    migrate(made.ledger_file)
    for variable in ("UPLOADS_PATH", "ARCHIVE_PATH", "LEDGER_PATH"):
        dest = getattr(made, variable.lower()) / "backups"
        with pytest.raises(BackupError, match=f"backup-folder: {dest} is inside {variable}"):
            backup.back_up(made, dest, lambda *_: None)


@pytest.mark.usefixtures("umask")
def test_there_is_no_backup_of_no_ledger_and_none_is_made_up(tmp_path):
    with pytest.raises(LedgerUnusable, match="ledger-missing"):
        backup.back_up(settings(tmp_path), tmp_path / "backups", lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--from-mirror", "--from-backup", "x"], ["--from-mirror", "--with-mirror"]])
def test_restore_wants_to_know_from_what(arguments):
    with pytest.raises(typer.BadParameter, match="--from-backup"):
        command_line(["restore", *arguments], standalone_mode=False)


def test_an_old_archive_is_adopted_and_the_service_continues_from_there(stack, status_server, tmp_path):
    for n in range(20):
        add_study(stack.archive, f"old-{n}")
    add_broken(stack.archive)
    before = picture(stack.archive)
    code, said = stack.run("adopt", "--dry-run")
    assert (code, "Would adopt  29 files of 28 studies" in said) == (1, True), said
    assert not (stack.ledger / "ledger.db").exists()
    code, said = stack.run("adopt", "--json", "--report", str(tmp_path / "report"))
    assert code == 1, said
    told = json.loads(said[said.index("{\n") :])  # what it logs precedes it: one file takes both
    assert {noted["path"]: noted["code"] for noted in told["left_alone"]} == BROKEN
    report = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert {line["path"]: line["code"] for line in report if line["adopted"]} == REMARKS
    assert {line["path"]: line["code"] for line in report if not line["adopted"]} == BROKEN
    again = json.loads(stack.run("adopt", "--json")[1])
    assert (again["files"], again["known"]) == (0, 29)
    assert picture(stack.archive) == before
    with closing(sqlite3.connect(f"file:{stack.ledger}/index.db?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*), sum(files) FROM studies WHERE state = 'archived'").fetchone() == (28, 29)
    assert "index" not in stack.run("verify")[1].partition("Damaged")[2], "nothing but what was left alone"
    stack.start()
    until(stack.idle, 30)
    assert stack.run("adopt")[0] == 11
    files = archive(stack, status_server, "new", 3)
    assert status_server.status("old-1") is None
    message = {"study_id": "old-1", "file_path": "/app/uploads/old-1.dcm", "metadata": {"patient_info": {"patient_id": "CHANGED"}}}
    stack.publish(message)
    until(lambda: status_server.status("old-1") == "archived", 30, what="the redelivery to be told")
    until(stack.idle, 30)
    assert_archived(stack, files)
    assert json.loads((stack.archive / "old-1" / "metadata.json").read_text())["patient_info"] == {"patient_id": "CHANGED"}
    connection = sqlite3.connect(f"file:{stack.ledger}/index.db?mode=ro", uri=True)
    shown = connection.execute("SELECT count(*), min(state), max(state) FROM studies").fetchone()
    connection.close()
    assert shown == (31, "archived", "archived")
    del before["old-1/metadata.json"], before["old-1"]
    assert before.items() <= picture(stack.archive).items()
    found = {violation["code"] for violation in stack.check()["violations"]}
    assert found == {"untracked-in-archive", "leftover-in-archive"}  # what was left alone
    assert stack.stop() == 0
    position = len(entries(stack))
    shutil.rmtree(stack.ledger)
    assert stack.run("restore", "--from-mirror")[0] == 0
    assert len(entries(stack)) == position
    stack.start()
    until(stack.idle, 30)
    assert len(entries(stack)) == position  # no status was re-sent, nothing was placed
    assert stack.stop() == 0


@pytest.mark.usefixtures("umask", "log")
def test_adopt_makes_no_ledger_for_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(Retryable, match="archive-missing"):
        adopt.adopt(settings(tmp_path), AdoptPlan(), on_progress=lambda _: None)
    assert not (tmp_path / "ledger" / "ledger.db").exists()


@pytest.mark.usefixtures("umask", "log")
def test_what_a_run_that_was_killed_has_not_mirrored_is_mirrored_by_the_next(tmp_path):
    made = settings(tmp_path)
    add_study(made.archive_path, "S1")
    adopt.adopt(made, AdoptPlan(), on_progress=lambda _: None)
    ledger = SqliteLedger(made.ledger_file)
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.RECOVERED, {"step": "place", "code": "archive-full"}))
    ledger.close()
    assert mirror_position(made.archive_path) == 2
    adopt.adopt(made, AdoptPlan(), on_progress=lambda _: None)
    assert mirror_position(made.archive_path) == 3


@pytest.mark.usefixtures("umask", "log")
def test_another_ledgers_archive_is_not_adopted(tmp_path):
    made = settings(tmp_path)
    add_study(made.archive_path, "S1")
    adopt.adopt(made, AdoptPlan(), on_progress=lambda _: None)
    other = made.model_copy(update={"ledger_path": tmp_path / "other"})
    with pytest.raises(LedgerUnusable, match=r"mirror-foreign: .*restore --from-mirror"):
        adopt.adopt(other, AdoptPlan(), on_progress=lambda _: None)
