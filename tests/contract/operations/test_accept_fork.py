"""A person accepts that entries are lost for good: the contradicted checkpoints are kept as evidence, and signing continues."""

from __future__ import annotations

import os
import shutil

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.payloads import AcknowledgedPayload
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.operations.accept_fork import accept_fork
from tests.support.checkpoint_scene import Scene
from tests.support.making import damage


@pytest.fixture
def scene(tmp_path, ledgers, clock):
    """Sign trees of 4, 6 and 8 entries, of which the last two are then lost."""
    made = Scene(tmp_path, ledgers, clock)
    made.append(3)
    made.sign()
    for _ in range(2):
        made.append(2)
        made.sign()
    damage(made.ledger, "DROP TRIGGER entries_delete; DELETE FROM pending; DELETE FROM entries WHERE position > 5")
    shutil.rmtree(made.archive / ".ledger" / "damaged", ignore_errors=True)
    for segment in (made.archive / ".ledger").glob("*.entries"):
        segment.unlink()
    made.mirror.rewrite()
    return made


def accept(scene: Scene) -> list[int]:
    done = accept_fork(scene.ledger, scene.mirror, scene.signer(), scene.clock, by="Jane Doe", reason="both disks lost")
    return [] if done is None else [each.size for each in done[1]]


def kept(scene: Scene) -> list[bytes]:
    """Return the notes among the evidence."""
    damaged = scene.archive / ".ledger" / "damaged"
    return sorted(path.read_bytes() for path in damaged.glob("checkpoint-*") if path.is_file())


def test_contradicted_checkpoints_become_evidence_and_the_ledger_is_signed_again(scene):
    (scene.notes / "8.cosig").mkdir()
    notes = {size: (scene.notes / str(size)).read_bytes() for size in (4, 6, 8)}
    assert scene.refused() == "checkpoint-forked"
    assert accept(scene) == [8, 6]
    assert sorted(os.listdir(scene.notes)) == ["4"]
    assert kept(scene) == sorted([notes[6], notes[8]])
    said = AcknowledgedPayload.of(scene.ledger.last())
    assert (said.code, said.by, said.reason) == ("checkpoint-forked", "Jane Doe", "both disks lost")
    assert said.checkpoints == [SignedNote.parse(notes[size]).text for size in (8, 6)]
    signed = scene.sign()
    assert (signed.size, signed.root) == (6, scene.root_of(6))
    assert signed.text != SignedNote.parse(notes[6]).text


def test_head_that_only_the_ledger_s_volume_has_is_kept_in_the_archive(scene):
    latest = (scene.root / "checkpoint.latest").read_bytes()
    shutil.rmtree(scene.notes)
    assert accept(scene) == [8]
    assert kept(scene) == [latest]
    assert not (scene.root / "checkpoint.latest").exists()
    assert scene.sign().size == 6


def test_nothing_is_accepted_while_the_ledger_continues_its_checkpoints(scene):
    assert accept(scene)
    scene.sign()
    before = scene.ledger.last()
    assert accept(scene) == []
    assert scene.ledger.last() == before


def test_what_a_kill_left_is_accepted_the_next_time(scene):
    """The entry and the first move were done."""
    [(checkpoint, note), *_] = scene.signer().contradicted()
    scene.signer().set_aside(checkpoint, note)
    assert accept(scene) == [6]
    assert scene.sign().size == 6


def test_changed_entry_is_a_fork_that_can_be_accepted_too(scene):
    accept(scene)
    scene.sign()
    damage(scene.ledger, "UPDATE entries SET leaf_hash = randomblob(32) WHERE position = 5")
    scene.signer()
    assert [each.size for each, _ in scene.signer().contradicted()] == [6]
    assert Checkpoint.parse(SignedNote.parse((scene.notes / "4").read_bytes()).text).size == 4
