"""Commands that only look, wait, or say what they would do; and a file that is put back while the service runs."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from storage_ledger import __version__
from tests.integration.test_lost_messages import lose as leave_without_a_message
from tests.integration.test_quarantine_commands import WHO, lose
from tests.integration.test_the_way_of_one_event import upload
from tests.support.stack import Stack
from tests.support.waiting import until

ONE, TWO = "3f0c7a52-9a8e-4d0b-b0a4-0c9d2c7b1e55", "3f0c7a52-9b00-4d0b-b0a4-0c9d2c7b1e55"


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url, MISSING_FILE_GRACE_SECONDS=0, RECONCILE_SECONDS=0, RECONCILE_GRACE_SECONDS=0)
    made.start()
    yield made
    made.close()


def archive(stack, status_server, *study_ids):
    for number, study_id in enumerate(study_ids):
        stack.publish(upload(stack, study_id, seed=number)[0])
    until(lambda: all(status_server.status(study_id) == "archived" for study_id in study_ids), 30)
    until(stack.idle, 30)


def position(stack):
    return json.loads(stack.command("status", "--json").stdout)["position"]


def test_a_study_is_named_by_the_beginning_of_its_id_where_a_command_only_reads(stack, status_server):
    archive(stack, status_server, ONE, TWO)
    lose(stack, status_server, "gone-1234-5678")
    assert f"Study  {ONE}" in stack.command("show", ONE[:12]).stdout
    several = stack.command("show", ONE[:8])
    assert (several.returncode, ONE in several.stderr, TWO in several.stderr) == (2, True, True)
    assert stack.command("show", ONE[:7]).returncode == 1, "shorter than 8 characters"
    assert json.loads(stack.command("show", TWO, "--json").stdout)["study_id"] == TWO
    assert "upload-missing" in stack.command("quarantine", "show", "gone-1234").stdout
    assert stack.command("quarantine", "discard", "gone-1234", *WHO).returncode == 1, "a command that writes takes no prefix"


def test_a_retry_waits_until_it_is_known_what_became_of_the_file(stack, status_server):
    lose(stack, status_server, "gone")
    again = stack.command("quarantine", "retry", "gone", *WHO, "--wait")
    assert (again.returncode, "quarantined again: upload-missing" in again.stdout) == (1, True), again.stdout
    upload(stack, "gone")
    done = stack.command("quarantine", "retry", "gone", *WHO, "--wait", "--json")
    assert done.returncode == 0
    assert [(each["outcome"], each["outcome_code"]) for each in json.loads(done.stdout)] == [("archived", None)]
    lose(stack, status_server, "later")
    assert stack.stop() == 0
    stopped = stack.command("quarantine", "retry", "later", *WHO, "--wait")
    assert (stopped.returncode, "is `serve` running?" in stopped.stdout) == (1, True)


def test_status_is_shown_again_until_it_is_interrupted(stack, tmp_path):
    log = tmp_path / "watched"
    watching = stack.warm.start(stack.environment, log, stack.root, "storage-ledger", "status", "--watch")
    until(lambda: log.exists() and log.read_text().count("Entries") >= 2, 30)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert stack.command("status", "--watch", "--json").returncode == 2


def test_dry_runs_of_reconcile_and_restore_change_nothing(stack, status_server):
    archive(stack, status_server, "s1")
    leave_without_a_message(stack, status_server, "lost")
    (stack.uploads / "nobodys.dcm").write_bytes(b"of nobody")
    before = position(stack)
    would = stack.command("reconcile", "--dry-run", "--json")
    assert would.returncode == 1, would.stderr
    assert {key: json.loads(would.stdout)[key] for key in ("dry_run", "described", "unexplained")} == {
        "dry_run": True, "described": 1, "unexplained": 1,
    }  # fmt: skip
    assert position(stack) == before
    assert stack.stop() == 0
    kept = (stack.ledger / "ledger.db").read_bytes()
    newest = stack.command("restore", "--from-mirror", "--dry-run")
    assert (newest.returncode, f"now has {before} entries; 0 were added" in newest.stdout) == (0, True), newest.stdout + newest.stderr
    for path in stack.ledger.glob("ledger.db*"):
        path.unlink()
    lost = stack.command("restore", "--from-mirror", "--dry-run", "--json")
    assert (lost.returncode, json.loads(lost.stdout)["entries"]) == (0, before)
    assert [path.name for path in stack.ledger.glob("ledger.db*")] == []
    (stack.ledger / "ledger.db").write_bytes(kept[: len(kept) // 2])
    assert stack.command("restore", "--from-mirror", "--dry-run").returncode == 2, "damaged: --force is needed"
    forced = stack.command("restore", "--from-mirror", "--force", "--dry-run")
    assert (forced.returncode, "before-restore" in forced.stdout) == (0, True)
    assert (stack.ledger / "ledger.db").read_bytes() == kept[: len(kept) // 2]
    assert not list(stack.ledger.glob("*restor*"))
    (stack.ledger / "ledger.db").unlink()
    assert stack.command("restore", "--from-mirror").returncode == 0
    assert not list(stack.ledger.glob("*restoring*")), "nor does a real one leave a part of the new file"


def test_a_file_is_put_back_while_the_service_archives(stack, status_server, tmp_path):
    archive(stack, status_server, "s1", "s2")
    shutil.copytree(stack.archive, tmp_path / "copy")
    broken = stack.archive / "s1" / "s1.dcm"
    good = broken.read_bytes()
    broken.chmod(0o640)
    broken.write_bytes(b"damaged")
    done = stack.command("repair", "files", "--study", "s1", "--source", str(tmp_path / "copy"))
    assert (done.returncode, broken.read_bytes()) == (0, good), done.stderr
    assert [path.read_bytes() for path in (stack.archive / ".ledger" / "damaged" / "s1").iterdir()] == [b"damaged"]
    archive(stack, status_server, "s3")
    assert stack.check()["violations"] == []
    assert stack.command("verify").returncode == 0


def test_each_part_of_replay_is_a_command_of_repair(stack, status_server):
    archive(stack, status_server, "s1")
    done = {part: stack.command("repair", part, "--dry-run") for part in ("index", "files", "metadata", "statuses", "mirror", "headers")}
    assert {part: each.returncode for part, each in done.items()} == dict.fromkeys(done, 0), done
    assert all(each.stdout.startswith("Dry run: nothing was changed.") for each in done.values())
    (stack.ledger / "index.db").unlink()
    assert stack.command("repair", "index").returncode == 0


def test_the_version_has_a_short_option(stack):
    assert stack.command("-V").stdout == f"storage-ledger {__version__}\n"
