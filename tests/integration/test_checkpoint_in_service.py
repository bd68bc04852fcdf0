"""Checkpoints of the running service: signed by itself, open to anyone, and no reason to stop archiving when they are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote
from tests.support.dicom import described, make_file
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server) -> Iterator[Stack]:
    made = Stack(tmp_path, valkey, status_server.url, CHECKPOINT_SECONDS=3600)
    yield made
    made.close()


def archive(stack: Stack, study_id: str) -> None:
    path = stack.uploads / f"{study_id}.dcm"
    message = described(study_id, path, make_file(path, seed=1)) | {"file_path": path.name}
    stack.publish(message)
    until((stack.archive / study_id / path.name).exists, 30)


def loaded(stack: Stack) -> bool:
    """Return whether the service has loaded the library that signs."""
    assert stack.process is not None
    return "/cryptography/" in Path(f"/proc/{stack.process.pid}/maps").read_text()


def test_service_signs_what_it_has_archived_and_anyone_may_ask_for_it(stack):
    stack.cold = True  # a warm process may have loaded anything
    stack.start()
    stack.cold = False
    assert stack.get("/checkpoint")[0] == 404
    assert not loaded(stack), "its memory is not taken before anything is signed"
    archive(stack, "s1")
    until(lambda: stack.get("/checkpoint")[0] == 200, 30)
    note = SignedNote.parse(stack.get("/checkpoint")[1].encode())
    signed = Checkpoint.parse(note.text)
    assert stack.metric("storage_ledger_checkpoint_size") == signed.size
    assert stack.metric("storage_ledger_last_checkpoint_timestamp_seconds") > 0
    assert loaded(stack)
    until(stack.idle, 30)
    shown = json.loads(stack.command("status", "--json").stdout)
    assert shown["last_checkpoint"]["size"] == signed.size
    assert f"of {signed.size} entries" in stack.command("status").stdout
    assert stack.stop() == 0
    assert all(stack.command("backup", "backups", *options).returncode == 0 for options in ([], ["--with-key"]))
    plain, with_key = sorted((stack.root / "backups").iterdir())
    assert [(each / "checkpoint").read_bytes() for each in (plain, with_key)] == [note.data] * 2
    assert [(each / "checkpoint.key").exists() for each in (plain, with_key)] == [False, True]
    (stack.ledger / "checkpoint.key").unlink()
    assert "was put back" in stack.command("restore", "--from-backup", str(with_key), "--force", "--with-mirror").stdout
    assert (stack.ledger / "checkpoint.key").read_bytes() == (with_key / "checkpoint.key").read_bytes()
    names = [path.name for path in (stack.archive / ".ledger" / "checkpoints").iterdir()]
    assert names == [str(signed.size)], "the next one is due in an hour"


def test_service_that_may_not_sign_says_why_archives_all_the_same_and_recovers_by_itself(stack):
    stack.start()
    archive(stack, "s1")
    until(lambda: stack.get("/checkpoint")[0] == 200, 30)
    assert stack.stop() == 0
    key = stack.ledger / "checkpoint.key"
    key.rename(stack.root / "kept.key")
    stack.environment["CHECKPOINT_SECONDS"] = "0.1"
    stack.start(ready=False)
    until(lambda: "checkpoint-key-missing" in stack.get("/readyz")[1], 30)
    assert stack.metric("storage_ledger_checkpoint_failing") == 1
    until(lambda: stack.metric("storage_ledger_source_subscribed") == 1, 30)
    archive(stack, "s2")
    looked = json.loads(stack.command("status", "--json").stdout)
    assert [(each["code"], "Mount its volume" in each["action"]) for each in looked["attention"]] == [("checkpoint-key-missing", True)]
    (stack.root / "kept.key").rename(key)
    until(lambda: stack.get("/readyz")[0] == 200, 60)
    until(lambda: stack.metric("storage_ledger_checkpoint_size") == stack.metric("storage_ledger_ledger_position"), 30)
    assert stack.stop() == 0
