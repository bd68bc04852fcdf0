"""The service under its own user, as in the image, with uploads that belong to another user."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.as_user import SERVICE, open_folder
from tests.support.stack import Stack
from tests.support.waiting import until

CONTENT = os.urandom(400_788)


@pytest.fixture
def stack(valkey, status_server):
    closed = [path for path in Path(__file__).resolve().parents if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        pytest.skip("another user cannot get to the migrations in this checkout: a folder above it is closed")
    with open_folder() as folder:
        stack = Stack(folder, valkey, status_server.url, RUN_AS=SERVICE, UPLOAD_SETTLE_SECONDS=1)
        for path in (stack.archive, stack.ledger):
            os.chown(path, SERVICE, SERVICE)
        os.chown(stack.uploads, 0, SERVICE)
        stack.uploads.chmod(0o2775)
        stack.start()
        yield stack
        stack.close()


def archived(stack, study_id):
    """Return the SHA-256 of each file of a study, by name, without metadata.json."""
    with contextlib.suppress(FileNotFoundError):
        paths = [path for path in (stack.archive / study_id).iterdir() if path.suffix == ".dcm"]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {}


def test_a_file_that_is_described_while_root_still_writes_it_loses_no_byte(stack, status_server):
    path = stack.uploads / "S1.dcm"
    with path.open("wb", buffering=0) as writer:
        path.chmod(0o644)
        writer.write(CONTENT[:100_000])
        stack.publish({"study_id": "S1", "file_path": "S1.dcm"})
        until(lambda: status_server.status("S1") == "archived", 30)  # immediately: the writer is not visible
        for begin in range(100_000, len(CONTENT), 50_000):
            writer.write(CONTENT[begin : begin + 50_000])
    until(lambda: not path.exists(), 60)
    kept = archived(stack, "S1")
    assert hashlib.sha256(CONTENT).hexdigest() in kept.values()
    shown = json.loads(stack.command("show", "S1", "--json").stdout)
    assert len(shown["files"]) == len(kept) >= 2
    assert stack.command("verify").returncode == 0
    assert stack.stop() == 0


def test_a_complete_file_owned_by_root_is_archived_reported_and_removed(stack, status_server):
    for number in range(20):
        (stack.uploads / f"S{number}.dcm").write_bytes(CONTENT[number:])
        (stack.uploads / f"S{number}.dcm").chmod(0o644)
        stack.publish({"study_id": f"S{number}", "file_path": f"S{number}.dcm"})
    until(lambda: all(status_server.status(f"S{number}") == "archived" for number in range(20)), 30)
    until(lambda: os.listdir(stack.uploads) == [], 60)
    assert all(list(archived(stack, f"S{number}").values()) == [hashlib.sha256(CONTENT[number:]).hexdigest()] for number in range(20))
    assert stack.stop() == 0
