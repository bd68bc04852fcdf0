"""Somebody who may write both volumes rewrites the history consistently: without checkpoints nothing is found, with an old one it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.ids import later
from storage_ledger.errors import CheckpointRefused
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof import keys
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.verify.report import VerifyReport
from storage_ledger.operations.verify.selection import GivenNote
from tests.contract.operations.test_verify import Scene
from tests.support.dicom import described, make_file
from tests.support.tampering import Copy, digest, put, renamed, rewrite

MONTH_S = 30 * 86_400.0


class Signed(Scene):
    """An archive of three studies, with a checkpoint after each. `outside`: the notes, as others have kept them."""

    def __init__(self, folder: Path, ledgers) -> None:
        super().__init__(folder, ledgers)
        self.folder = folder
        self.archive_root = self.pipeline.archive
        self.ledger_root = folder / "ledger"
        self.latest = self.ledger_root / "checkpoint.latest"
        self.notes = self.archive_root / ".ledger" / "checkpoints"
        self.outside: list[GivenNote] = []
        for number, (study_id, name) in enumerate({"a": "DOE^JANE", "b": "MÜLLER^JÖRG", "c": "ROSSI^MARIA"}.items(), 1):
            self.bring(study_id, name, number)
            self.outside.append(GivenNote(f"kept/{number}", self.sign()))

    def bring(self, study_id: str, name: str, seed: int) -> None:
        path = self.pipeline.uploads / f"{study_id}.dcm"
        made = make_file(path, patient_name=name, patient_id=f"P-{seed}", seed=seed)
        self.pipeline.deliver(json.dumps(described(study_id, path.name, made)).encode())
        self.pipeline.finish()
        self.tell_all()
        self.follow()

    def signer(self) -> Signer:
        root = self.ledger_root
        files = ProofFiles(root / "checkpoint.key", root / "checkpoint.lock", root / "checkpoint.latest", root / "tree.cache", "x.example")
        return Signer(self.ledger, CheckpointFolder(self.archive_root), files, clock=self.clock)

    def sign(self) -> bytes:
        def mirrored() -> int:
            self.mirror.catch_up()
            return self.mirror.position

        note = self.signer().sign(mirrored)
        self.follow()
        assert note is not None
        return note

    def attack(self, change: Callable[[Entry], dict | None]) -> None:
        """Rewrite everything but the checkpoints, and open it as a new process would."""
        self.index.close()
        self.ledger.close()
        rewrite(self.ledger_root, self.archive_root, change)
        self.ledger = SqliteLedger(self.ledger_root / "ledger.db", clock=self.clock)
        self.mirror = Mirror(self.archive_root, self.ledger_root / "mirror.lock", self.ledger)
        self.mirror.begin()

    def without_checkpoints(self) -> None:
        """Remove what the volumes have of them, as the attacker could."""
        shutil.rmtree(self.notes)
        self.latest.unlink(missing_ok=True)

    def refuses_to_sign(self) -> None:
        before = sorted(os.listdir(self.notes))
        with pytest.raises(CheckpointRefused) as refused:
            self.sign()
        assert refused.value.code == "checkpoint-forked"
        assert sorted(os.listdir(self.notes)) == before

    def found(self, *given: GivenNote) -> list[tuple[str, int | None, str | None]]:
        report = self.verify(record=False, checkpoints=given)
        assert report.found.unchecked == []
        return [(each.code, each.position, each.path) for each in report.found.damaged]


@pytest.fixture
def scene(tmp_path, ledgers):
    made = Signed(tmp_path, ledgers)
    yield made
    made.index.close()
    made.ledger.close()


def rename_a_patient(scene: Signed) -> None:
    scene.attack(renamed(("DOE^JANE", "ROE^JANE")))


def swap_an_image(scene: Signed) -> None:
    path, other = scene.path("a"), scene.folder / "other.dcm"
    make_file(other, patient_name="ROE^RICHARD", patient_id="P-9", seed=9)
    size = f'"bytes":{path.stat().st_size}', f'"bytes":{other.stat().st_size}'
    scene.attack(renamed(("DOE^JANE", "ROE^RICHARD"), ('"P-1"', '"P-9"'), (digest(path), digest(other)), size))
    put(path, other.read_bytes())


def take_out_a_study(scene: Signed) -> None:
    shutil.rmtree(scene.archive_root / "a")
    scene.attack(lambda entry: None if entry.study_id == "a" else {})


def move_the_history(scene: Signed) -> None:
    scene.attack(lambda entry: {"recorded_at": later(entry.recorded_at, -MONTH_S)})


ATTACKS = (rename_a_patient, swap_an_image, take_out_a_study, move_the_history)


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_old_checkpoint_from_elsewhere_finds_what_nothing_else_does(scene: Signed, attack):
    assert scene.found(*scene.outside) == []
    kept = scene.folder / "kept"
    shutil.copytree(scene.notes, kept)
    sizes = sorted(int(name) for name in os.listdir(scene.notes))
    attack(scene)
    latest = scene.latest.read_bytes()
    scene.without_checkpoints()
    assert scene.found() == [], "the attack is consistent"
    assert scene.found(scene.outside[0]) == [("checkpoint-mismatch", 1, "kept/1")]

    shutil.copytree(kept, scene.notes)  # the attacker had left the folder as it was
    assert scene.found()[0] == ("checkpoint-mismatch", 1, f".ledger/checkpoints/{sizes[0]}")
    scene.refuses_to_sign()
    scene.without_checkpoints()
    scene.notes.mkdir()
    scene.latest.write_bytes(latest)  # or the copy of the last one
    scene.refuses_to_sign()


def test_a_change_is_between_the_last_checkpoint_that_fits_and_the_first_that_does_not(scene: Signed):
    scene.attack(renamed(("MÜLLER^JÖRG", "MÜLLER^JOHN")))
    first, second, third = sorted(int(name) for name in os.listdir(scene.notes))
    report: VerifyReport = scene.verify(record=True)
    [found] = report.found.damaged
    assert (found.code, found.position, found.path) == ("checkpoint-mismatch", first + 1, f".ledger/checkpoints/{second}")
    assert "2 more in .ledger/checkpoints" in found.detail, "of the third, and the copy of it on the ledger's volume"
    assert first < third
    assert (report.checkpoints.count, report.checkpoints.size) == (1, first)
    assert report.recorded == []
    assert report.not_recorded, "a history that was rewritten is not continued"


def test_an_old_copy_of_both_volumes_is_found_with_a_checkpoint_from_elsewhere_alone(scene: Signed, tmp_path: Path):
    copy = Copy(tmp_path / "copies", scene.ledger_root, scene.archive_root)
    position = scene.ledger.last().position
    scene.bring("d", "TANAKA^LI", 4)
    newest = GivenNote("kept/4", scene.sign())
    scene.index.close()
    scene.ledger.close()
    copy.bring_back()
    scene.ledger = SqliteLedger(scene.ledger_root / "ledger.db", clock=scene.clock)
    assert scene.found(*scene.outside) == []
    assert scene.found(*scene.outside, newest) == [("checkpoint-ahead", position + 1, "kept/4")]


def test_a_history_signed_again_with_another_key_does_not_fit_an_old_checkpoint(scene: Signed):
    key = scene.ledger_root / "checkpoint.key"
    key.unlink()
    own = keys.make(key, f"x.example/{scene.ledger.ledger_id}").verifier.text

    def change(entry: Entry) -> dict:
        if entry.kind == Kind.KEY:
            return {"payload": json.dumps({**entry.data, "vkey": own})}
        return {"payload": entry.payload.replace("DOE^JANE", "ROE^JANE")}

    scene.without_checkpoints()
    scene.attack(change)
    scene.sign()
    assert scene.found() == []
    report = scene.verify(record=False, checkpoints=(scene.outside[2],))
    codes = [(each.code, each.path) for each in report.found.damaged]
    size = scene.ledger.last().position
    assert codes == [("checkpoint-forked", "kept/3"), ("checkpoint-mismatch", "kept/3")]
    assert f"states another root for {size} entries" in report.found.damaged[0].detail
    assert "signed by no key that the ledger records" in report.found.damaged[1].detail
