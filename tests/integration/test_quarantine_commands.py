"""`storage-ledger quarantine retry` and `discard` as processes, with and without a running service."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.integration.test_the_way_of_one_event import upload
from tests.support.as_user import SERVICE, open_package
from tests.support.stack import Stack
from tests.support.waiting import until

WHO = ("--by", "Jane Doe", "--reason", "the gateway has sent it again")


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url, MISSING_FILE_GRACE_SECONDS=0)
    yield made
    made.close()


def quarantine(stack, *arguments):
    """Run the command; return its exit code and its JSON."""
    done = stack.command("quarantine", *arguments, "--json")
    assert done.returncode in {0, 1}, done.stderr
    answers = json.loads(done.stdout)
    if arguments[0] in {"retry", "discard"}:
        assert {(each.pop("outcome"), each.pop("outcome_code")) for each in answers} <= {(None, None)}, "nobody waited"
    return done.returncode, answers


def lose(stack, status_server, *study_ids):
    """Describe missing files; wait until they are quarantined and the status is sent."""
    for study_id in study_ids:
        stack.publish({"study_id": study_id, "file_path": f"{study_id}.dcm"})
    until(lambda: all(status_server.status(study_id) == "failed" for study_id in study_ids), 30)
    until(stack.idle, 30)


def found(stack, study_id):
    return [entry["kind"] for entry in json.loads(stack.command("show", study_id, "--json").stdout)["entries"]]


def state(stack, study_id):
    return json.loads(stack.command("show", study_id, "--json").stdout)["state"]


def test_a_retry_is_picked_up_by_the_running_service(stack, status_server):
    stack.start()
    lose(stack, status_server, "gone")
    _, data = upload(stack, "gone")
    before = stack.metric('storage_ledger_entries_total{kind="released"}')
    assert quarantine(stack, "retry", "gone", *WHO) == (
        0,
        [{"study_id": "gone", "upload_path": "gone.dcm", "found": "quarantined", "code": "upload-missing", "position": 4}],
    )
    until(lambda: status_server.status("gone") == "archived", 30)
    until(stack.idle, 30)  # the index, too, has followed what another process appended
    assert (stack.archive / "gone" / "gone.dcm").read_bytes() == data
    assert stack.metric('storage_ledger_entries_total{kind="released"}') == before == 0, "it counts what this process appended"
    assert stack.check()["violations"] == []
    assert found(stack, "gone")[:6] == ["described", "quarantined", "status-sent", "released", "archived", "status-sent"]
    story = json.loads(stack.command("show", "gone", "--json").stdout)
    assert story["entries"][3]["summary"] == "released (retry) by Jane Doe: the gateway has sent it again"
    assert "Jane Doe" in stack.command("show", "gone").stdout
    code, answers = quarantine(stack, "retry", "gone", *WHO)
    assert (code, answers[0]["found"], answers[0]["position"]) == (1, "archived", None)


def test_a_decision_made_while_the_service_is_stopped_is_carried_out_at_its_next_start(stack, status_server):
    stack.start()
    lose(stack, status_server, "back", "never")
    assert stack.stop() == 0
    upload(stack, "back")
    assert quarantine(stack, "retry", "back", *WHO)[0] == 0
    assert quarantine(stack, "discard", "never", *WHO)[0] == 0
    assert stack.check(settled=False)["violations"] == []
    status_server.forget()
    stack.start()
    until(lambda: (status_server.status("back"), status_server.status("never")) == ("archived", "failed"), 30)
    until(stack.idle, 30)
    assert status_server.statuses["never"]["details"] == {"error": "upload-missing"}
    assert (state(stack, "back"), state(stack, "never")) == ("archived", "discarded")
    assert stack.check()["violations"] == []
    assert stack.command("quarantine", "list").returncode == 0
    assert stack.command("status").returncode == 0, "what is discarded needs nobody's attention"


def test_the_commands_are_right_as_they_are_printed_once_the_words_are_ones_own(stack, status_server):
    stack.start()
    lose(stack, status_server, "one", "two")
    for study_id, index in (("one", 0), ("two", 1)):
        for shown in (stack.command("show", study_id).stdout, stack.command("quarantine", "show", study_id).stdout):
            command = [line.strip() for line in shown.splitlines() if line.strip().startswith("storage-ledger ")][index]
            done = stack.command(*shlex.split(command)[1:])
            assert (done.returncode, "is a placeholder" in done.stderr) == (2, True), "not a word of it gets into the ledger"
        done = stack.command(*shlex.split(command.replace("YOUR NAME", "Jane Doe").replace("WHY", "it never came"))[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    assert found(stack, "one")[3] == "released"
    assert found(stack, "two")[3] == "discarded"


def test_a_discard_is_reported_and_leaves_the_upload_in_place(stack, status_server, tmp_path):
    stack.start()
    (stack.uploads / "link.dcm").symlink_to(tmp_path)
    stack.publish({"study_id": "two", "file_path": "link.dcm"})
    (stack.uploads / "good.dcm").write_bytes(b"good")
    stack.publish({"study_id": "two", "file_path": "good.dcm"})
    until(lambda: status_server.status("two") == "failed" and stack.idle(), 30)
    code, answers = quarantine(stack, "discard", "two", "--upload", "good.dcm", *WHO)
    assert (code, answers[0]["found"]) == (1, "archived")
    assert quarantine(stack, "discard", "two", "--upload", "link.dcm", *WHO)[0] == 0
    until(lambda: status_server.status("two") == "archived" and stack.idle(), 30)
    assert (stack.uploads / "link.dcm").is_symlink()
    assert stack.stop() == 0
    stack.start()  # it is not retried
    until(stack.idle, 30)
    assert (stack.uploads / "link.dcm").is_symlink()
    assert "released" not in found(stack, "two")
    assert stack.check()["violations"] == []
    # But a redelivery is accepted.
    (stack.uploads / "link.dcm").unlink()
    (stack.uploads / "link.dcm").write_bytes(b"a file now")
    stack.publish({"study_id": "two", "file_path": "link.dcm"})
    until(lambda: (stack.archive / "two" / "link.dcm").exists() and stack.idle(), 30)
    assert state(stack, "two") == "archived"


def test_all_with_a_code_releases_those_and_no_others(stack, status_server, tmp_path):
    stack.start()
    (stack.uploads / "link.dcm").symlink_to(tmp_path)
    stack.publish({"study_id": "link", "file_path": "link.dcm"})
    lose(stack, status_server, *(f"gone-{n}" for n in range(5)))
    until(lambda: status_server.status("link") == "failed", 30)
    for n in range(5):
        upload(stack, f"gone-{n}", seed=n)
    code, answers = quarantine(stack, "retry", "--all", "--code", "upload-missing", *WHO)
    assert (code, sorted(each["study_id"] for each in answers)) == (0, [f"gone-{n}" for n in range(5)])
    until(lambda: all(status_server.status(f"gone-{n}") == "archived" for n in range(5)), 30)
    until(stack.idle, 30)
    assert quarantine(stack, "retry", "--all", "--code", "upload-missing", *WHO) == (1, [])
    code, listed = quarantine(stack, "list")
    assert (code, [each["study_id"] for each in listed]) == (1, ["link"])
    assert stack.check()["violations"] == []


def test_the_service_killed_right_after_a_word_does_what_it_says_all_the_same(stack, status_server):
    stack.start()
    names = ["gone-0", "gone-1"]
    lose(stack, status_server, *names)
    for n, name in enumerate(names):
        upload(stack, name, seed=n)
        stack.command("quarantine", "retry" if n % 2 else "discard", name, *WHO)
        stack.kill()
        assert stack.check(settled=False)["violations"] == []
        stack.start()
    expected = {name: "archived" if n % 2 else "failed" for n, name in enumerate(names)}
    until(lambda: {name: status_server.status(name) for name in names} == expected, 30)
    until(stack.idle, 30)
    assert stack.check()["violations"] == []
    assert [path.name for path in stack.uploads.iterdir()] == ["gone-0.dcm"]


def test_a_command_killed_on_the_way_has_said_all_or_nothing(stack, status_server):
    stack.start()
    lose(stack, status_server, "gone")
    assert stack.stop() == 0
    said = stack.root / "said"
    for wait_s in (0.01, 0.02, 0.03, 0.04, 0.06, 0.08):
        process = stack.warm.start(stack.environment, said, stack.root, "storage-ledger", "quarantine", "retry", "gone", *WHO)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        assert stack.check(settled=False)["violations"] == []
    assert found(stack, "gone").count("released") <= 1
    stack.command("quarantine", "retry", "gone", *WHO)
    assert found(stack, "gone").count("released") == 1


def test_two_studies_that_name_one_upload_refer_to_each_other(stack, status_server):
    stack.start()
    message, _ = upload(stack, "first")
    stack.publish(message)
    until(lambda: status_server.status("first") == "archived" and stack.idle(), 30)
    stack.publish({**message, "study_id": "second"})
    until(lambda: status_server.status("second") == "failed" and stack.idle(), 30)
    code, [item] = quarantine(stack, "show", "second")
    assert (code, item["code"], item["archived_as"]) == (0, "upload-missing", ["first"])
    said = stack.command("quarantine", "show", "second").stdout
    assert "archived for study first" in said
    assert "nothing is lost: discard this one" in " ".join(said.split())


def test_a_word_without_a_name_is_refused_with_2_before_anything_is_opened(stack):
    done = stack.command("quarantine", "retry", "s", "--by", "", "--reason", "x")
    assert done.returncode == 2
    assert "--by is empty" in done.stderr
    assert list(stack.ledger.iterdir()) == []


def test_without_a_ledger_nothing_is_made(stack):
    done = stack.command("quarantine", "retry", "s", *WHO)
    assert done.returncode == 2
    assert "ledger-missing" in done.stderr
    assert list(stack.ledger.iterdir()) == []


def test_an_unknown_study_exits_with_1(stack):
    stack.start()
    done = stack.command("quarantine", "retry", "nobody", *WHO)
    assert done.returncode == 1
    assert "not in the ledger" in done.stdout


# -- users

WARM_THEN_AS = """
import contextlib, importlib, os, pkgutil, sys
import rich
from storage_ledger.cli import main
for module in pkgutil.iter_modules(rich.__path__, "rich."):  # it imports when it prints
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # what is for another system
            importlib.import_module(module.name)
uid, warm = int(sys.argv[1]), sys.argv[2]
real, arguments = os.environ["LEDGER_PATH"], sys.argv[3:]
os.environ["LEDGER_PATH"] = warm  # all that is imported on the way: the user may not be able to read this interpreter's library
with contextlib.suppress(SystemExit), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    sys.argv[1:] = arguments
    main()
os.environ["LEDGER_PATH"] = real
os.setgroups([]); os.setgid(uid); os.setuid(uid)
main()
"""

LOOK_WHILE_OPEN = """
import os, sys
from pathlib import Path
from storage_ledger.wiring import stores
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.settings import Settings
settings = Settings.load()
with stores.appending(settings) as ledger:
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.RECOVERED, {"step": "tell", "code": "x"}))
    for path in sorted(settings.ledger_path.iterdir()):
        print(path.name, path.stat().st_uid, oct(path.stat().st_mode & 0o777))
"""


@pytest.fixture
def ledger_of_the_service(stack):
    """Make a ledger with one quarantined study, owned by the service's user, in a folder that others may enter."""
    if os.geteuid() != 0:
        pytest.skip("other users take root")
    stack.start()
    stack.publish({"study_id": "gone", "file_path": "gone.dcm"})
    until(lambda: stack.command("quarantine", "list").returncode == 1, 30)
    until(stack.idle, 30)
    stack.stop()
    with tempfile.TemporaryDirectory() as open_folder:
        os.chmod(open_folder, 0o711)  # noqa: S103 - the other users come through here
        shutil.copytree(stack.ledger, Path(open_folder) / "warm")
        folder = Path(shutil.copytree(stack.ledger, Path(open_folder) / "ledger"))
        folder.chmod(0o750)
        for path in (folder, *folder.iterdir()):
            os.chown(path, SERVICE, SERVICE)
        stack.environment["LEDGER_PATH"] = str(folder)
        stack.environment["WARM"] = str(Path(open_folder) / "warm")
        stack.environment["PACKAGE"] = str(open_package(Path(open_folder)))
        yield folder


def run(stack, code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    environment, folder = stack.environment, stack.environment["PACKAGE"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_root_appends_and_leaves_nothing_that_locks_the_service_out(stack, ledger_of_the_service):
    while_open = run(stack, LOOK_WHILE_OPEN).stdout.splitlines()
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm"} <= {line.split()[0] for line in while_open}
    assert {tuple(line.split()[1:]) for line in while_open if line.startswith("ledger.db")} == {(str(SERVICE), "0o640")}
    assert stack.command("quarantine", "retry", "gone", *WHO).returncode == 0
    assert {path.stat().st_uid for path in ledger_of_the_service.iterdir()} == {SERVICE}
    again = run(stack, WARM_THEN_AS, str(SERVICE), stack.environment["WARM"], "quarantine", "discard", "gone", *WHO)
    assert (again.returncode, "pending" in again.stdout) == (1, True), again.stderr


def test_the_services_own_user_appends(stack, ledger_of_the_service):
    done = run(stack, WARM_THEN_AS, str(SERVICE), stack.environment["WARM"], "quarantine", "retry", "gone", *WHO)
    assert (done.returncode, "released" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("folder_mode", [0o750, 0o755, 0o777])
def test_the_wrong_user_is_named_the_right_one_and_creates_no_file(stack, ledger_of_the_service, folder_mode):
    ledger_of_the_service.chmod(folder_mode)
    before = sorted(path.name for path in ledger_of_the_service.iterdir())
    done = run(stack, WARM_THEN_AS, "12345", stack.environment["WARM"], "quarantine", "retry", "gone", *WHO)
    assert done.returncode == 2
    assert "ledger-not-writable" in done.stderr
    assert f"user {SERVICE}" in done.stderr
    assert sorted(path.name for path in ledger_of_the_service.iterdir()) == before
