"""`storage-ledger prove` beside the working service, and `verify-proof` on what it wrote."""

from __future__ import annotations

import json
import os

import pytest

from tests.integration.test_the_way_of_one_event import upload
from tests.support.stack import Stack
from tests.support.waiting import until


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    made = Stack(tmp_path, valkey, status_server.url, CHECKPOINT_SECONDS=0)
    yield made
    made.close()


def test_study_is_proved_beside_the_service_and_an_auditor_checks_it(stack):
    stack.start()
    for study_id in ("study-one", "study-two"):
        stack.publish(upload(stack, study_id)[0])
    until(stack.idle, 30)
    out = stack.root / "out"
    early = stack.command("prove", "study-one", "--output", str(out))
    assert (early.returncode, "checkpoint-none" in early.stderr, out.exists()) == (2, True, False)

    assert stack.command("checkpoint").returncode == 0
    done = stack.command("prove", "study-on", "--output", str(out), "--json")  # the beginning of its name is enough
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["study_ids"] == ["study-one"]
    proofs = [str(out / f"{position}.tlog-proof") for position in told["positions"]]
    assert len(proofs) == 3
    policy = stack.root / "policy"
    policy.write_text(stack.command("checkpoint", "--policy").stdout)
    [archived] = (stack.archive / "study-one").glob("*.dcm")
    checked = stack.command("verify-proof", str(policy), *proofs, str(archived))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    other = stack.command("verify-proof", str(policy), *proofs, str(out / "README.txt"))
    assert (other.returncode, "NOT PROVED" in other.stdout) == (1, True)
    assert stack.command("verify-proof", str(policy), str(out / "missing.tlog-proof")).returncode == 2

    again = stack.command("prove", "study-one", "--output", str(out))
    assert (again.returncode, "proof-output" in again.stderr) == (2, True)
    inside = stack.command("prove", "study-one", "--output", str(stack.archive / "out"))
    assert (inside.returncode, "ARCHIVE_PATH" in inside.stderr) == (2, True)

    by_file = stack.command("prove", "--file", str(archived), "--no-payload", "--output", str(stack.root / "by-file.zip"), "--json")
    assert json.loads(by_file.stdout)["study_ids"] == ["study-one", "study-two"], "both have these bytes"
    [row] = json.loads(stack.command("show", "study-one", "--json").stdout)["files"]
    uid = row["patient"].get("study_instance_uid") or _study_uid(archived)
    by_uid = stack.command("prove", "--dicom-study", uid, "--output", str(stack.root / "by-uid"), "--json")
    assert "study-one" in json.loads(by_uid.stdout)["study_ids"], by_uid.stderr
    one = stack.command("prove", "--position", "1", "--output", str(stack.root / "one"))
    assert (one.returncode, "1.tlog-proof" in os.listdir(stack.root / "one")) == (0, True)

    nothing = [("no-such-study",), ("--file", str(out / "README.txt")), ("--dicom-study", "1.2.3.4"), ("--position", "999")]
    for wanted in nothing:
        assert stack.command("prove", *wanted, "--output", str(stack.root / "nothing")).returncode == 1, wanted
    for wanted in ((), ("study-one", "--position", "1")):
        assert stack.command("prove", *wanted, "--output", str(stack.root / "nothing")).returncode == 2, wanted
    assert not (stack.root / "nothing").exists()

    stack.publish(upload(stack, "study-three")[0])
    until(stack.idle, 30)
    late = stack.command("prove", "study-three", "--output", str(stack.root / "late"))
    assert (late.returncode, "checkpoint-too-old" in late.stderr) == (2, True)


def _study_uid(path) -> str:
    import pydicom  # noqa: PLC0415

    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
