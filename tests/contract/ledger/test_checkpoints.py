"""Checkpoints of a ledger in real files: what is signed, what is refused, and which key signs."""

from __future__ import annotations

import os
import shutil
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.payloads import KeyPayload
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.errors import Retryable
from storage_ledger.ledger.proof import keys
from tests.support.checkpoint_scene import Scene
from tests.support.making import damage


@pytest.fixture
def scene(tmp_path, ledgers, clock):
    return Scene(tmp_path, ledgers, clock)


def test_checkpoint_signs_the_tree_of_all_mirrored_entries(scene):
    scene.append(300)
    signed = scene.sign()
    assert (signed.size, signed.root) == (301, scene.root_of(301)), "the key's own entry is signed, too"
    assert signed.origin == f"hospital.example/{scene.ledger.ledger_id}"
    note = SignedNote.parse((scene.notes / "301").read_bytes())
    key = VerifierKey.parse(KeyPayload.of(scene.ledger.get(301)).vkey)
    [signature] = note.signatures
    assert signature.is_by(key)
    assert keys.is_signed(note.text.encode(), signature.value, key)
    assert not keys.is_signed(note.text.replace("301", "302").encode(), signature.value, key)
    assert stat.S_IMODE(scene.key.stat().st_mode) == 0o400


def test_only_entries_of_the_mirror_are_signed(scene):
    scene.append(5)
    scene.sign()
    scene.append(5)
    data = scene.signer().sign(lambda: 8)
    assert Checkpoint.parse(SignedNote.parse(data).text).size == 8


def test_a_ledger_without_new_entries_gets_no_second_checkpoint(scene):
    scene.append(3)
    first = scene.sign()
    signer = scene.signer()
    assert [scene.sign(signer), scene.sign(signer)] == [first, first]
    assert os.listdir(scene.notes) == ["4"]
    assert len(scene.ledger.read(0, 99)) == 4


def test_empty_ledger_has_nothing_to_sign_and_gets_no_key(scene):
    assert scene.sign() is None
    assert not scene.key.exists()


@pytest.mark.parametrize("restarted", [True, False], ids=["by a new process", "by the same process"])
@pytest.mark.parametrize("sizes", [(3, 7), (300, 500), (255, 1)])
def test_later_checkpoints_continue_the_earlier_ones(scene, sizes, restarted):
    signer = scene.signer()
    for size in sizes:
        scene.append(size)
        signed = scene.sign(None if restarted else signer)
        assert signed.root == scene.root_of(signed.size)


@pytest.mark.parametrize("at", [2, 299])
def test_nothing_is_signed_once_an_earlier_entry_was_changed(scene, at):
    scene.append(300)
    scene.sign()
    scene.append(1)
    scene.mirrored()
    damage(scene.ledger, f"UPDATE entries SET leaf_hash = randomblob(32) WHERE position = {at}")
    assert scene.refused() == "checkpoint-forked"


def test_a_shorter_ledger_is_never_signed_even_if_the_archive_is_as_old(scene, ledgers):
    scene.append(3)
    scene.sign()
    shutil.rmtree(scene.notes)  # the archive is an old copy; only the ledger's volume has the last note
    scene.append(5)
    scene.sign()
    shutil.rmtree(scene.notes)
    damage(scene.ledger, "DROP TRIGGER entries_delete; DELETE FROM pending; DELETE FROM entries WHERE position > 6")
    assert scene.refused() == "checkpoint-forked"
    scene.append(5)
    assert scene.refused() == "checkpoint-forked", "however long it grows"


def test_a_note_by_a_foreign_key_still_forbids_another_history(scene):
    scene.append(10)
    other = keys.make(scene.root / "other.key", f"hospital.example/{scene.ledger.ledger_id}")
    checkpoint = Checkpoint(other.name, 5, bytes(32))
    scene.sign()
    (scene.root / "checkpoint.latest").unlink()
    shutil.rmtree(scene.notes)
    scene.folder.publish(SignedNote(checkpoint.text, (other.sign(checkpoint.text),)))
    assert scene.refused() == "checkpoint-forked"


@pytest.mark.parametrize("spoil", [b"", b"\xff\n", b"x" * 70_000, "damaged"], ids=["empty", "no text", "large", "a wrong signature"])
def test_damaged_note_is_skipped_and_the_copy_on_the_ledger_volume_still_counts(scene, spoil):
    scene.append(3)
    scene.sign()
    note = scene.notes / "4"
    data = note.read_bytes().replace(b"\n4\n", b"\n5\n") if spoil == "damaged" else spoil
    note.unlink()
    (scene.notes / "5").write_bytes(data)
    scene.append(4)
    assert scene.sign().size == 8
    damage(scene.ledger, "UPDATE entries SET leaf_hash = randomblob(32) WHERE position = 1")
    assert scene.refused() == "checkpoint-forked"


def test_lost_notes_are_not_signed_again_but_the_last_one_is_put_back(scene):
    scene.append(3)
    first = scene.sign()
    shutil.rmtree(scene.notes)
    assert scene.sign() == first
    assert os.listdir(scene.notes) == ["4"]
    shutil.rmtree(scene.notes)
    scene.append(1)
    scene.sign()
    assert sorted(os.listdir(scene.notes)) == ["4", "5"], "also if there is more to sign"


def test_copy_of_the_last_note_that_a_killed_process_did_not_make_is_made(scene):
    scene.append(3)
    scene.sign()
    (scene.root / "checkpoint.latest").unlink()
    scene.sign()
    assert (scene.root / "checkpoint.latest").read_bytes() == (scene.notes / "4").read_bytes()


def test_a_note_is_never_overwritten(scene):
    scene.append(3)
    scene.sign()
    before = (scene.notes / "4").read_bytes()
    other = SignedNote.parse(before.replace(b"hospital", b"hostile!"))
    assert scene.folder.publish(other) == before
    assert (scene.notes / "4").read_bytes() == before


def test_missing_key_is_not_replaced_once_the_ledger_names_one(scene):
    scene.append(3)
    scene.sign()
    scene.append(1)
    scene.key.unlink()
    assert scene.refused() == "checkpoint-key-missing"
    assert not scene.key.exists()


def test_another_key_does_not_sign(scene):
    scene.append(3)
    scene.sign()
    scene.append(1)
    scene.key.unlink()
    keys.make(scene.key, "x")
    assert scene.refused() == "checkpoint-key-wrong"


@pytest.mark.parametrize("data", [b"", b"no key", "rsa"])
def test_unreadable_key_does_not_sign(scene, data):
    if data == "rsa":
        data = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    scene.append(3)
    scene.key.write_bytes(data)
    assert scene.refused() == "checkpoint-key-unreadable"


def test_a_key_that_was_made_but_not_recorded_is_used(scene):
    made = keys.make(scene.key, "x")
    scene.append(3)
    scene.sign()
    assert VerifierKey.parse(KeyPayload.of(scene.ledger.get(4)).vkey).public_key == made.verifier.public_key


def test_changed_origin_is_recorded_as_another_name_of_the_same_key(scene):
    scene.append(3)
    scene.sign()
    scene.append(1)
    signed = scene.sign(scene.signer("other.example/pacs"))
    assert signed.origin.startswith("other.example/pacs/")
    entry = KeyPayload.of(scene.ledger.last())
    assert (entry.vkey.split("+")[0], entry.replaces.split("+")[0].split("/")[0]) == (signed.origin, "hospital.example")


def test_archive_that_is_not_mounted_signs_nothing(scene):
    scene.append(3)
    scene.archive.rename(scene.root / "elsewhere")
    with pytest.raises(Retryable, match="archive-missing"):
        scene.sign()


def test_cosignatures_are_joined_and_garbage_beside_them_is_not(scene):
    scene.append(3)
    signed = scene.sign()
    other = keys.make(scene.root / "w.key", "witness.example/w1").sign(signed.text)
    scene.folder.add_cosignatures(4, "witness.example/w1", other.line)
    (scene.notes / "4.cosig" / "x").write_bytes(b"\xff\xfe")
    (scene.notes / "4.cosig" / "y").write_text("— a b\n")
    for number, control in enumerate("\0\x01\x07\x1b\x1c"):
        (scene.notes / "4.cosig" / f"z{number}").write_text(other.line.replace("w1", f"w{control}1"))
    note = SignedNote.parse(scene.folder.latest())
    assert [each.name for each in note.signatures] == [signed.origin, "witness.example/w1"]
    assert SignedNote.parse((scene.notes / "4").read_bytes()).signatures == note.signatures[:1], "the note itself stays as it was"


def test_too_many_cosignatures_do_not_make_the_note_unreadable(scene):
    scene.append(3)
    signed = scene.sign()
    line = keys.make(scene.root / "w.key", "witness.example/w1").sign(signed.text).line
    (scene.notes / "4.cosig").mkdir()
    (scene.notes / "4.cosig" / "a").write_text(line * 200)
    assert len(SignedNote.parse(scene.folder.latest()).signatures) <= 100
    (scene.notes / "4.cosig" / "a").write_text(line.replace("w1", "w" * 5000) * 12)
    (scene.notes / "4.cosig" / "b").write_text(line.replace("w1", "w" * 5000) * 12 + line)
    assert SignedNote.parse(scene.folder.latest()).signatures[-1].name == "witness.example/w1"


def test_folders_links_and_sockets_among_the_checkpoints_do_not_stop_signing_or_reading(scene):
    scene.append(3)
    scene.sign()
    (scene.notes / "4.cosig").mkdir()
    for folder in (scene.notes / "4.cosig" / "@eaDir", scene.notes / "9000000000000000000"):
        folder.mkdir()
    for link in (scene.notes / "4.cosig" / "a", scene.notes / "8999999999999999999"):
        link.symlink_to("4")
    os.mkfifo(scene.notes / "8999999999999999998")
    assert scene.folder.joined(4) == (scene.notes / "4").read_bytes()
    scene.append(3)
    assert scene.sign().size == 7


@pytest.mark.parametrize("name", ["../../x", ".hidden", "a/b", "é", "x" * 300])
def test_witness_with_an_odd_name_has_a_file_in_its_folder(scene, name):
    scene.append(3)
    scene.sign()
    scene.folder.add_cosignatures(4, name, "")
    [file] = os.listdir(scene.notes / "4.cosig")
    assert "/" not in file
    assert not file.startswith(".")


def test_a_name_that_something_else_has_is_left_alone_and_the_next_checkpoint_is_signed(scene):
    scene.append(3)
    scene.sign()
    scene.append(1)
    (scene.notes / "5").write_bytes(b"no note\n")
    assert scene.refused() == "checkpoint-name-taken"
    scene.append(1)
    assert scene.sign().size == 6
    assert (scene.notes / "5").read_bytes() == b"no note\n"


def test_unreadable_previous_key_does_not_keep_the_present_one_from_signing(scene):
    scene.append(3)
    scene.sign()
    before = KeyPayload.of(scene.ledger.get(4)).vkey
    scene.key.rename(scene.root / "checkpoint.key.previous")
    made = keys.make(scene.key, f"hospital.example/{scene.ledger.ledger_id}").verifier
    with scene.ledger.write() as tx:
        tx.append(KeyPayload(made.text, replaces=before, both_until="2026-01-02T00:00:00.000000Z").entry())
    scene.sign()
    assert len(SignedNote.parse((scene.notes / "5").read_bytes()).signatures) == 2
    (scene.root / "checkpoint.key.previous").unlink()
    (scene.root / "checkpoint.key.previous").write_bytes(b"junk")
    scene.append(1)
    scene.sign()
    [signature] = SignedNote.parse((scene.notes / "6").read_bytes()).signatures
    assert signature.is_by(made)
