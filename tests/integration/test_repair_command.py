"""`storage-ledger repair headers`, beside the service and after it."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite
from tests.integration.test_the_way_of_one_event import upload
from tests.support.dicom import make_file
from tests.support.stack import Stack
from tests.support.waiting import until

UNREAD = "unread"


@pytest.fixture
def stack(tmp_path, valkey, status_server, warm):
    made = Stack(tmp_path, valkey, status_server.url, warm=warm)
    yield made
    made.close()


def without_header(stack):
    """Archive a file as an earlier version did, without its header."""
    folder = stack.archive / UNREAD
    folder.mkdir()
    name = f"{UNREAD}.dcm"
    make_file(folder / name, seed=77, patient_name="FOUND^AGAIN", study_uid="1.2.77")
    data = (folder / name).read_bytes()
    message = {"study_id": UNREAD, "file_path": name, "metadata": {"study_info": {"study_instance_uid": "1.2.99"}}}
    file = {"name": name, "original_name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with closing(SqliteLedger(stack.ledger / "ledger.db")) as ledger, ledger.write() as tx:
        described = {"message": message, "source": "pubsub", "raw_sha256": "", "upload_path": name}
        cause = tx.append(NewEntry(Kind.DESCRIBED, described, UNREAD)).position
        payload = {"file": file, "placement": "copied", "metadata_sha256": "", "dicom": None, "dicom_error": "header-too-large"}
        tx.append(NewEntry(Kind.ARCHIVED, {**payload, "upload_path": name, "software": "0", "host": "h"}, UNREAD, cause))


def listed(stack):
    with closing(sqlite.connect(stack.ledger / "index.db")) as connection:
        return set(connection.execute("SELECT study_instance_uid, patient_name FROM dicom_studies"))


def told(ended, code=0):
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_headers_are_read_again_while_the_service_is_stopped(stack, status_server):
    stack.start()
    message, _ = upload(stack, "note", seed=1)
    (stack.uploads / "note.dcm").write_bytes(b"a note, and no DICOM")
    stack.publish(message)
    until(lambda: status_server.status(message["study_id"]) == "archived", 30)
    until(stack.idle, 30)
    assert stack.command("repair", "headers").returncode == 11, "both write metadata.json"
    assert stack.command("repair", "headers", "--dry-run").returncode == 0
    assert stack.stop() == 0

    without_header(stack)
    assert stack.command("replay", "--metadata").returncode == 0
    assert stack.command("replay", "--index").returncode == 0
    assert ("1.2.99", None) in listed(stack)
    counts = {"looked_at": 2, "changed": 1, "left": 1}
    would = told(stack.command("repair", "headers", "--dry-run", "--json"))
    assert (would["dry_run"], would["headers"], would["metadata_written"]) == (True, counts, 0)
    done = told(stack.command("repair", "headers", "--json"))
    assert (done["headers"], done["metadata_written"], done["findings"], done["trouble"]) == (counts, 1, [], None)
    again = stack.command("repair", "headers")
    assert (again.returncode, again.stdout) == (0, "Headers: 1 file read, 0 recorded, 1 still incomplete.\n")
    assert told(stack.command("repair", "headers", "--study", UNREAD, "--json"))["headers"]["looked_at"] == 0
    assert stack.command("repair", "headers", "--study", "nobody").returncode == 2

    stack.start()
    until(lambda: ("1.2.77", "FOUND^AGAIN") in listed(stack), 30)
    assert not {uid for uid, _ in listed(stack)} & {"1.2.99"}
    look = json.loads(stack.command("status", "--json").stdout)
    assert look["headers_unreadable"] == 1
    assert "1 file whose header could not be read completely" in stack.command("status").stdout
    assert stack.command("verify").returncode == 0
    story = json.loads(stack.command("show", UNREAD, "--json").stdout)
    assert f"header re-read: {UNREAD}.dcm, complete" in {each["summary"] for each in story["entries"]}


def test_a_file_that_is_not_the_ledgers_is_a_finding(stack):
    stack.start()
    assert stack.stop() == 0
    without_header(stack)
    make_file(stack.archive / UNREAD / f"{UNREAD}.dcm", seed=78)
    done = told(stack.command("repair", "headers", "--json"), code=1)
    assert [(each["code"], each["path"]) for each in done["findings"]] == [("file-changed", f"{UNREAD}/{UNREAD}.dcm")]
    assert done["headers"] == {"looked_at": 0, "changed": 0, "left": 0}
