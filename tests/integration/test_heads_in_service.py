"""The running service takes its checkpoints outside: to our witness, to a stranger's, and to a program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.ledger.proof.cosignatures import cosigned_at
from tests.support.dicom import described, make_file
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.witnesses import AicsWitness, OurWitness


@pytest.fixture
def stack(tmp_path, valkey, status_server) -> Iterator[Stack]:
    made = Stack(tmp_path, valkey, status_server.url, CHECKPOINT_SECONDS=0.1, CHECKPOINT_EXEC=f"sh -c 'cat >> {tmp_path / 'mailed'}'")
    yield made
    made.close()


def archive(stack: Stack, study_id: str) -> None:
    path = stack.uploads / f"{study_id}.dcm"
    stack.publish(described(study_id, path, make_file(path, seed=1)) | {"file_path": path.name})
    until((stack.archive / study_id / path.name).exists, 30)
    until(stack.idle, 30)


def outside(stack: Stack) -> list[dict[str, Any]]:
    return json.loads(stack.command("status", "--json").stdout)["outside"]


def newest(stack: Stack) -> SignedNote:
    code, text = stack.get("/checkpoint")
    return SignedNote.parse(text.encode()) if code == 200 else SignedNote("", ())


def is_newest_cosigned(stack: Stack, *keys: VerifierKey) -> Callable[[], bool]:
    def look() -> bool:
        note = newest(stack)
        whole = stack.metric("storage_ledger_ledger_position") == (Checkpoint.parse(note.text).size if note.text else 0)
        return whole and all(cosigned_at(note.text, note.signatures, key) for key in keys)

    return look


def test_checkpoints_are_cosigned_and_a_ledger_that_was_rolled_back_is_found_out(stack, tmp_path):
    stack.start()
    archive(stack, "s1")
    until(lambda: stack.get("/checkpoint")[0] == 200, 30)
    stack.stop()
    policy = stack.command("checkpoint", "--policy").stdout.splitlines()
    [log] = [VerifierKey.parse(line.split()[1]) for line in policy if line.startswith("log ")]
    assert policy[1:] == ["quorum none"]
    for name in ("ours", "aics"):
        (tmp_path / name).mkdir()
    with closing(OurWitness(tmp_path / "ours", [log])) as ours, closing(AicsWitness(tmp_path / "aics", [log])) as aics:
        ours.start()
        stack.environment["CHECKPOINT_WITNESSES"] = f"{ours.key.text} {ours.url}, {aics.key.text} {aics.url}/"
        policy = stack.command("checkpoint", "--policy").stdout.splitlines()
        names = f"{ours.key.name} {aics.key.name}"
        unknown, other = (VerifierKey(each.name, each.type, bytes([n + 1] * 32)).text for n, each in enumerate((ours.key, aics.key)))
        assert policy[1:] == [
            f"witness {ours.key.name} {ours.key.text} {ours.url}",
            f"witness {aics.key.name} {aics.key.text} {aics.url}",
            f"group witnesses any {names}",
            "quorum witnesses",
        ]

        stack.start()
        until(is_newest_cosigned(stack, ours.key), 30, what="our cosignature, while the other is away")
        assert "code=witness-away" in stack.log.read_text()
        aics.start()
        archive(stack, "s2")
        until(is_newest_cosigned(stack, ours.key, aics.key), 30, what="both cosignatures")
        until(lambda: newest(stack).text in (tmp_path / "mailed").read_text(), 30)
        assert stack.get("/readyz")[0] == 200
        (tmp_path / "policy").write_text(stack.command("checkpoint", "--policy").stdout)
        assert stack.command("prove", "s1", "--output", str(tmp_path / "proof")).returncode == 0
        [proof, *_] = map(str, (tmp_path / "proof").glob("*.tlog-proof"))
        assert stack.command("verify-proof", str(tmp_path / "policy"), proof).returncode == 0
        (tmp_path / "policy").write_text((tmp_path / "policy").read_text().replace(ours.key.text, unknown).replace(aics.key.text, other))
        assert stack.command("verify-proof", str(tmp_path / "policy"), proof).returncode == 1, "no known witness has signed it"
        places = {f"witness {ours.key.name}": 0, f"witness {aics.key.name}": 0, "exec": 0}
        until(lambda: {each["name"]: each["waiting_s"] for each in outside(stack)} == places, 30)
        stack.stop()
        shutil.copytree(stack.ledger, tmp_path / "old" / "ledger")
        shutil.copytree(stack.archive, tmp_path / "old" / "archive")

        stack.start()
        archive(stack, "s3")
        until(is_newest_cosigned(stack, ours.key, aics.key), 30, what="cosignatures with a proof from the last checkpoint")
        stack.stop()

        for folder in (stack.ledger, stack.archive):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "old" / folder.name, folder)
        stack.start()
        until(lambda: sum(each["entries"] > 0 for each in outside(stack)) == 3, 30, what="all places are known to have the old copy")
        archive(stack, "s4")
        until(lambda: stack.get("/readyz")[1].count("witness-saw-fork") == 2, 30, what="an alarm by each witness")
        assert stack.metric(f'storage_ledger_checkpoint_witness_forked{{place="witness {aics.key.name}"}}') == 1
        shown = stack.command("status").stdout
        assert "verify --checkpoint" in shown
        assert f"witness {ours.key.name} has taken one of" in shown
        assert not is_newest_cosigned(stack, ours.key)()
        archive(stack, "s5")
        until(lambda: log.name in aics.evidence(), 30, what="the evidence: only a checkpoint that is not shorter is sent", every_s=0.5)
        until(lambda: "Refused:" in ours.evidence(), 30, every_s=0.5)
        assert stack.stop() == 0


def test_wrong_settings_are_named_without_their_values(stack, tmp_path):
    key = "w.example+f9421f76+BL9MWHDb6kX9BJo6MR1WiwJGkxAuMpK7jw53As8dTle/"
    for name, value in (
        ("CHECKPOINT_WITNESSES", f"{key[:-2]}A/ http://canary"),
        ("CHECKPOINT_WITNESSES", f"{key} http://user:canary@w.example"),
        ("CHECKPOINT_WITNESSES", f"{key} http://w.example/?canary"),
        ("CHECKPOINT_TSA", "ftp://canary"),
        ("CHECKPOINT_TSA", "http://canary:99999999"),
        ("CHECKPOINT_TSA_CERTIFICATES", str(tmp_path / "missing")),
        ("CHECKPOINT_EXEC", "echo 'canary"),
    ):
        stack.environment[name] = value
        done = stack.command("serve")
        assert (done.returncode, name in done.stderr, "canary" in done.stderr) == (2, True, False), name
        del stack.environment[name]
        stack.environment["CHECKPOINT_TSA"] = "http://127.0.0.1:1"
    assert json.loads(stack.command("status", "--json").stdout)["serving"] is False
