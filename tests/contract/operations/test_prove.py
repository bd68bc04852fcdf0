"""Bundles of proofs: which checkpoint they end with, what is never proved, and what is written."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import rfc3161_client

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.errors import ProofError, Retryable
from storage_ledger.ledger.proof import keys
from storage_ledger.operations.prove import verify
from storage_ledger.operations.prove.bundle import bundle
from storage_ledger.operations.prove.output import write
from storage_ledger.operations.prove.proofs import proofs
from tests.support.making import damage, described
from tests.support.proving import CONTENT, STUDY, Proving, Witness
from tests.support.time_stamping import Authority

WITNESS = Witness("witness.example/w")


@pytest.fixture
def proving(tmp_path, ledgers) -> Proving:
    made = Proving(tmp_path, ledgers.open(tmp_path / "ledger"))
    made.fill()
    return made


def append(proving: Proving) -> None:
    with proving.ledger.write() as tx:
        tx.append(NewEntry(Kind.DESCRIBED, described("later.dcm"), "later"))


def refused(proving: Proving, study_id: str = STUDY, position: int = 1) -> str:
    with pytest.raises(ProofError) as refused:
        proofs(list(proving.ledger.study(study_id)), proving.covering(position), proving.ledger.leaf_hashes, b"", with_payload=True)
    return refused.value.code


def test_bundle_proves_every_entry_and_a_stranger_needs_nothing_but_it_and_the_policy(proving, tmp_path):
    proving.sign([WITNESS])
    proving.folder.add_time_stamp(proving.size, b"a time stamp")
    write(bundle(proving.proofs(), proving.covering(), proving.keys, with_payload=True), tmp_path / "out")
    assert set(os.listdir(tmp_path / "out")) == {
        "301.tlog-proof", "302.tlog-proof", "303.tlog-proof",
        "404.checkpoint", "404.tsr", "README.txt", "policy-for-orientation.txt", "verify.py",
    }  # fmt: skip
    (tmp_path / "policy").write_text(proving.policy(f"witness W {WITNESS.key.text}", "quorum W"))
    (tmp_path / "a.dcm").write_text(CONTENT)
    command = [sys.executable, "-I", "-S", "verify.py", tmp_path / "policy", "301.tlog-proof", "302.tlog-proof", "303.tlog-proof"]
    done = subprocess.run([*command, tmp_path / "a.dcm"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nproved: ") == 4
    assert (tmp_path / "out" / "404.checkpoint").read_bytes() == (proving.notes / "404").read_bytes(), "what the time stamp was made of"
    assert verify.main([str(tmp_path / "out" / "policy-for-orientation.txt"), str(tmp_path / "out" / "302.tlog-proof")]) == 0
    readme = (tmp_path / "out" / "README.txt").read_text()
    assert "openssl ts -verify -data 404.checkpoint -in 404.tsr" in readme
    assert "no other entry" in readme


def test_time_stamp_in_a_bundle_is_checked_with_the_command_in_its_readme(proving, tmp_path):
    (tmp_path / "tsa").mkdir()
    authority = Authority(tmp_path / "tsa")
    proving.sign([WITNESS])
    note = (proving.notes / "404").read_bytes()
    query = rfc3161_client.TimestampRequestBuilder().data(note).hash_algorithm(rfc3161_client.HashAlgorithm.SHA256).build()
    proving.folder.add_time_stamp(404, authority.stamp(query.as_bytes()))
    write(bundle(proving.proofs(), proving.covering(), proving.keys, with_payload=True), tmp_path / "out")
    [command] = re.findall(r"openssl ts .*", (tmp_path / "out" / "README.txt").read_text())
    words = command.replace("CERTIFICATE-OF-THE-AUTHORITY.pem", str(tmp_path / "tsa" / "root.pem")).split()
    done = subprocess.run(words, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert (done.returncode, "Verification: OK" in done.stdout + done.stderr) == (0, True), done.stderr


def test_without_payloads_nothing_of_what_entries_say_is_in_the_bundle(proving):
    proving.sign()
    made = bundle(proving.proofs(with_payload=False), proving.covering(), proving.keys, with_payload=False)
    assert all(b"a.dcm" not in each.data and b"YS5kY20" not in each.data for each in made)


def test_newest_checkpoint_that_is_valid_is_used(proving):
    proving.sign()
    append(proving)
    proving.sign()
    newest = proving.notes / "405"
    assert proving.covering().checkpoint.size == 405
    newest.write_bytes(newest.read_bytes().replace(b"\n405\n", b"\n406\n"))
    assert proving.covering().checkpoint.size == 404


def test_checkpoint_of_a_foreign_key_is_no_checkpoint(proving):
    proving.sign()
    append(proving)
    other = keys.make(proving.root / "other.key", proving.keys[0].name)
    forged = Checkpoint(other.name, 405, bytes(32))
    proving.folder.publish(SignedNote(forged.text, (other.sign(forged.text),)))
    assert proving.covering().checkpoint.size == 404


def test_wrong_signature_in_our_name_beside_a_checkpoint_does_not_spoil_the_proofs(proving):
    proving.sign([WITNESS])
    own = SignedNote.parse((proving.notes / "404").read_bytes()).signatures[0]
    (proving.notes / "404.cosig" / "x").write_text(own.line.replace(own.line[-20:-10], "A" * 10))
    assert proving.covering().joined == (proving.notes / "404").read_bytes()


def test_entry_that_is_newer_than_every_checkpoint_is_not_proved(proving):
    with pytest.raises(ProofError, match="checkpoint-none"):
        proving.covering()
    proving.sign()
    append(proving)
    with pytest.raises(ProofError, match=r"checkpoint-too-old.*405.*404.*storage-ledger checkpoint"):
        proving.covering(405)


def test_ledger_that_lost_the_tree_of_its_checkpoint_proves_nothing(proving):
    proving.sign()
    damage(proving.ledger, "UPDATE entries SET leaf_hash = randomblob(32) WHERE position = 5")
    assert refused(proving) == "checkpoint-forked"


def test_ledger_that_is_shorter_than_its_checkpoint_proves_nothing(proving):
    proving.sign()
    damage(proving.ledger, "DROP TRIGGER entries_delete; DELETE FROM pending; DELETE FROM entries WHERE position > 350")
    assert refused(proving) == "checkpoint-forked"


def test_damaged_entry_is_not_proved(proving):
    proving.sign()
    damage(proving.ledger, "UPDATE entries SET payload = '{}' WHERE position = 302")
    with pytest.raises(Retryable, match="entry-damaged"):
        proving.proofs()


@pytest.mark.parametrize("spoiled", [b"", bytes(32), bytes(3 * 32)], ids=["no cache", "a wrong block", "wrong blocks, and too many"])
def test_wrong_cache_of_the_tree_changes_no_proof(proving, spoiled):
    proving.sign()
    right = proving.proofs()
    proving.blocks.write(b"x" * 32)
    proving.blocks.path.unlink()
    if spoiled:
        proving.blocks.write(spoiled)
    assert proving.proofs() == right


def test_what_is_written_is_private_and_nothing_is_overwritten(proving, tmp_path):
    proving.sign()
    made = bundle(proving.proofs(), proving.covering(), proving.keys, with_payload=True)
    (tmp_path / "out").mkdir()
    write(made, tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "out").iterdir()} == {0o640}
    write(made, tmp_path / "out.zip")
    assert stat.S_IMODE((tmp_path / "out.zip").stat().st_mode) == 0o640
    (tmp_path / "file").write_text("mine")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    for output in ("out", "out.zip", "file", "missing/out", "missing/out.zip", "/"):
        with pytest.raises(ProofError, match="proof-output"):
            write(made, tmp_path / output)
    with pytest.raises(ProofError, match="proof-output"):
        write([*made, made[0]], tmp_path / "half")
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before, "and nothing is left behind"


def test_zip_file_holds_the_same_files_in_one_folder(proving, tmp_path):
    proving.sign()
    made = bundle(proving.proofs(), proving.covering(), proving.keys, with_payload=True)
    write(made, tmp_path / "study.zip")
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {f"study/{each.name}": each.data for each in made}
        archive.extractall(tmp_path)
    assert {stat.S_IMODE(Path(tmp_path / "study" / each.name).stat().st_mode) for each in made} <= {0o640, 0o644, 0o600}
