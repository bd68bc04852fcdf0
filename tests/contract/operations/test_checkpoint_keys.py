"""Replacing the key that signs checkpoints: which keys sign afterwards, what is recorded, and what a kill in between leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads import KeyPayload
from storage_ledger.domain.signed_note import SignedNote, VerifierKey
from storage_ledger.errors import CheckpointRefused, Retryable
from storage_ledger.ledger.mirror import reader
from storage_ledger.ledger.proof import keys
from storage_ledger.operations.rotate_key import BOTH_FOR_S, Rotation, rotate_key
from storage_ledger.settings import Settings
from storage_ledger.wiring import checkpoint as wiring
from tests.support.checkpoint_scene import Scene


@pytest.fixture
def scene(tmp_path, ledgers, clock):
    made = Scene(tmp_path, ledgers, clock)
    made.append(3)
    return made


def rotate(scene: Scene, rotation: Rotation = Rotation.ROUTINE) -> KeyPayload:
    origin = scene.signer().origin
    _, payload = rotate_key(scene.ledger, scene.mirror, scene.key, origin, scene.clock, rotation, by="Jane Doe", reason="it was time")
    return payload


def refused(scene: Scene, rotation: Rotation) -> str:
    before = scene.ledger.last()
    with pytest.raises(CheckpointRefused) as error:
        rotate(scene, rotation)
    assert scene.ledger.last() == before
    return error.value.code


def signers(scene: Scene) -> list[str]:
    """Sign one more entry; return the verifier keys whose signatures are valid."""
    scene.append(1)
    scene.sign()
    note = SignedNote.parse(scene.folder.latest())
    known = [VerifierKey.parse(each.vkey) for each in keys.recorded_keys(scene.ledger)]
    return [
        key.text
        for signature in note.signatures
        for key in known
        if signature.is_by(key) and keys.is_signed(note.text.encode(), signature.value, key)
    ]


def test_both_keys_sign_for_thirty_days_and_then_the_new_one_alone(scene):
    signer = scene.signer()
    scene.sign(signer)
    [old] = signers(scene)
    new = rotate(scene)
    assert (new.replaces, new.by, new.reason) == (old, "Jane Doe", "it was time")
    assert signers(scene) == [new.vkey, old]
    scene.append(1)
    assert [each.name for each in SignedNote.parse(signer.sign(scene.mirrored)).signatures] == [signer.origin] * 2, "no restart is needed"
    scene.clock.move(BOTH_FOR_S)
    assert signers(scene) == [new.vkey]


def test_entry_is_in_the_mirror_before_the_files_change(scene):
    scene.sign()
    rotate(scene)
    assert list(reader.entries(scene.archive, scene.ledger.ledger_id))[-1] == scene.ledger.last()
    scene.archive.rename(scene.root / "elsewhere")
    before = scene.key.read_bytes()
    with pytest.raises(Retryable):
        rotate(scene)
    assert scene.key.read_bytes() == before


def test_stolen_key_signs_nothing_more(scene):
    scene.sign()
    new = rotate(scene, Rotation.AT_ONCE)
    assert new.both_until is None
    assert signers(scene) == [new.vkey]


@pytest.mark.parametrize("instead", [None, b"no key", "another"])
def test_lost_key_is_replaced_by_a_person_only(scene, instead):
    scene.sign()
    scene.key.unlink()
    if instead == "another":
        keys.make(scene.key, "x")
    elif instead:
        scene.key.write_bytes(instead)
    assert refused(scene, Rotation.ROUTINE).startswith("checkpoint-key-")
    new = rotate(scene, Rotation.LOST)
    assert new.both_until is None
    assert signers(scene) == [new.vkey]


def test_key_that_is_there_is_not_lost_and_none_is_replaced_before_the_first_checkpoint(scene):
    assert refused(scene, Rotation.ROUTINE) == "checkpoint-none"
    scene.sign()
    assert refused(scene, Rotation.LOST) == "checkpoint-key-not-lost"


@pytest.mark.parametrize("point", ["the key was made", "it was recorded", "the old one was renamed"])
def test_rotation_that_was_interrupted_is_finished_by_the_next_signature_or_begun_again(scene, point):
    scene.sign()
    following = Path(f"{scene.key}{keys.NEXT}")
    new = keys.make(following, scene.signer().origin).verifier.text
    [old] = keys.recorded_keys(scene.ledger)
    if point != "the key was made":
        with scene.ledger.write() as tx:
            tx.append(KeyPayload(new, replaces=old.vkey, both_until="2100-01-01T00:00:00.000000Z", by="x", reason="y").entry())
    if point == "the old one was renamed":
        scene.key.rename(f"{scene.key}{keys.PREVIOUS}")
    assert signers(scene) == ([old.vkey] if point == "the key was made" else [new, old.vkey])
    again = rotate(scene)
    assert again.vkey != new
    assert signers(scene)[0] == again.vkey
    assert [entry.kind for entry in scene.ledger.read(0, 99)].count(Kind.KEY) == (2 if point == "the key was made" else 3)


@pytest.mark.parametrize("end", ["", keys.NEXT, keys.PREVIOUS])
def test_folder_with_the_name_of_a_key_file_is_named_before_anything_is_recorded(scene, end):
    scene.sign()
    if not end:
        scene.key.rename(scene.root / "elsewhere")
    folder = Path(f"{scene.key}{end}")
    folder.mkdir()
    before = scene.ledger.last()
    with pytest.raises(Retryable, match=f"checkpoint-key-not-made: {folder} is a folder: move it away"):
        rotate(scene, Rotation.ROUTINE if end else Rotation.LOST)
    assert scene.ledger.last() == before
    folder.rmdir()
    assert rotate(scene, Rotation.ROUTINE if end else Rotation.LOST).vkey in signers(scene)


@pytest.mark.parametrize("old_was_renamed", [False, True])
def test_rotation_that_was_interrupted_is_finished_under_an_origin_that_was_changed_meanwhile(scene, old_was_renamed):
    scene.sign()
    new = keys.make(Path(f"{scene.key}{keys.NEXT}"), scene.signer().origin).verifier
    [old] = keys.recorded_keys(scene.ledger)
    with scene.ledger.write() as tx:
        tx.append(KeyPayload(new.text, replaces=old.vkey, by="x", reason="y").entry())
    if old_was_renamed:
        scene.key.rename(f"{scene.key}{keys.PREVIOUS}")
    signed = scene.sign(scene.signer("other.example"))
    assert signed.origin.startswith("other.example/")
    renamed = keys.recorded_verifier_keys(scene.ledger)[0]
    assert (renamed.name, renamed.public_key) == (signed.origin, new.public_key)
    [signature] = SignedNote.parse(scene.folder.latest()).signatures
    assert signature.is_by(renamed)
    assert not Path(f"{scene.key}{keys.NEXT}").exists()


HOSTILE = {
    "no text": {"vkey": ""},
    "no key": {"vkey": "x+12345678+AAAA"},
    "no time": {"both_until": "soon"},
    "no time zone": {"both_until": "2100-01-01T00:00:00"},
}


@pytest.mark.parametrize("wrong", HOSTILE.values(), ids=HOSTILE.keys())
def test_key_entry_that_names_no_key_or_no_time_is_left_out(scene, wrong):
    scene.sign()
    [before] = signers(scene)
    with scene.ledger.write() as tx:
        tx.append(NewEntry(Kind.KEY, {"vkey": before, **wrong}))
    assert signers(scene) == [before]
    assert rotate(scene).replaces == before


def policy(scene: Scene) -> list[str]:
    return wiring.policy(Settings(uploads_path=scene.root, archive_path=scene.archive, ledger_path=scene.ledger.path.parent))


def test_policy_names_a_key_once_under_its_newest_name(scene):
    """Two lines with one key are not allowed, whatever their names: c2sp.org/tlog-policy, "Defining a log"."""
    scene.sign()
    [first] = signers(scene)
    routine = rotate(scene).vkey
    assert policy(scene) == [f"log {routine}", f"log {first}", "quorum none"]
    scene.append(1)
    scene.sign(scene.signer("other.example"))
    renamed = keys.recorded_verifier_keys(scene.ledger)[0].text
    before = f"# the same key before CHECKPOINT_ORIGIN was changed: log {routine}"
    assert policy(scene) == [f"log {renamed}", before, f"log {first}", "quorum none"]


def test_policy_names_a_key_that_was_replaced_at_once_in_a_comment(scene):
    scene.sign()
    [first] = signers(scene)
    stolen = rotate(scene).vkey
    new = rotate(scene, Rotation.AT_ONCE).vkey
    assert policy(scene) == [
        f"log {new}",
        *(f"# replaced at once, signs nothing more: log {each}" for each in (stolen, first)),
        "quorum none",
    ]
