"""What `verify` says of single checkpoints: which fit, which do not, and which are no evidence."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.ledger.mirror import reader as mirror_reader
from storage_ledger.ledger.proof import keys
from storage_ledger.operations.verify import ledger as ledger_part
from storage_ledger.operations.verify.checkpoints import CheckpointsCheck
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.report import Agreement
from storage_ledger.operations.verify.selection import GivenNote
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader
from tests.contract.ledger.test_checkpoints import Scene
from tests.support.making import damage

FOLDER = ".ledger/checkpoints"


class Checked(Scene):
    """A ledger with checkpoints of 11, 301 and 600 entries."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.origin = f"hospital.example/{self.ledger.ledger_id}"
        for count in (10, 290, 299):
            self.append(count)
            self.sign()
        self.found = Findings()

    def check(self, *given: bytes, up_to: int = 0) -> Agreement:
        """Check as `verify` does: damaged entries are taken from the mirror."""
        self.found = Findings()
        with closing(UntrustingReader(self.ledger.path)) as reader:
            damaged = ledger_part.check_entries(reader, Findings(), reader.last(), lambda _: None).positions
            known = mirror_reader.entries_at(self.archive, damaged) if damaged else {}
            reader.repaired = {position: known.get(position) for position in damaged}
            latest = self.root / "checkpoint.latest"
            check = CheckpointsCheck(reader, self.archive, latest, self.ledger.ledger_id, self.found)
            notes = tuple(GivenNote(f"given/{number}", data) for number, data in enumerate(given))
            return check.run(notes, up_to)

    def codes(self, *given: bytes) -> list[tuple[str, int | None, str | None]]:
        self.check(*given)
        assert self.found.unchecked == []
        return [(each.code, each.position, each.path) for each in self.found.damaged]

    def detail(self) -> str:
        [found] = self.found.damaged
        return found.detail

    def text(self, size: int, root: bytes | None = None, origin: str | None = None) -> str:
        return Checkpoint(origin or self.origin, size, root or self.root_of(size)).text


@pytest.fixture
def scene(tmp_path, ledgers, clock):
    made = Checked(tmp_path, ledgers, clock)
    yield made
    made.ledger.close()


def test_checkpoints_of_every_size_agree_wherever_they_are_from(scene):
    assert scene.check() == Agreement(4, 600), "three, and the copy on the ledger's volume"
    given = [scene.text(size).encode() for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 600)]
    assert scene.check(*given) == Agreement(14, 600)
    assert scene.found.damaged == scene.found.unchecked == []


def test_a_checkpoint_may_be_typed_from_paper_or_come_by_mail(scene):
    signed = (scene.notes / "301").read_bytes()
    typed = f"  {scene.origin} \r\n\r\n301\r\n{scene.text(301).splitlines()[2]}".encode()
    assert scene.check(typed, signed.replace(b"\n", b"\r\n"), signed + b"\n-- \nJ. Doe\n").count == 7
    assert scene.found.damaged == []
    wrong = scene.text(301, bytes(32)).replace("\n", "\r\n").encode()
    assert scene.codes(wrong) == [("checkpoint-forked", 12, "given/0"), ("checkpoint-mismatch", 12, "given/0")]
    assert "without a readable signature" in scene.found.damaged[1].detail


def test_a_checkpoint_that_does_not_fit_is_after_the_last_that_does(scene):
    assert scene.codes(scene.text(400, bytes(32)).encode()) == [("checkpoint-mismatch", 302, "given/0")]
    assert "without a readable signature" in scene.detail()
    assert scene.codes(scene.text(601, bytes(32)).encode()) == [("checkpoint-ahead", 601, "given/0")]
    assert "it covers 601 entries" in scene.detail()
    assert "there are 600" in scene.detail()


def test_each_given_checkpoint_is_reported_and_those_of_the_archive_together(scene):
    damage(scene.ledger, "UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 20")
    with closing(UntrustingReader(scene.ledger.path)) as reader:
        check = CheckpointsCheck(reader, scene.archive, scene.root / "none", scene.ledger.ledger_id, found := Findings())
        notes = [GivenNote(f"given/{name}", (scene.notes / name).read_bytes()) for name in ("301", "600", "11")]
        assert check.run(tuple(notes), 0) == Agreement(2, 11)
    assert sorted((each.code, each.position, each.path) for each in found.damaged) == [
        ("checkpoint-mismatch", 12, f"{FOLDER}/301"),
        ("checkpoint-mismatch", 12, "given/301"),
        ("checkpoint-mismatch", 12, "given/600"),
    ]


def test_a_note_that_was_changed_or_cannot_be_read_is_no_evidence(scene, tmp_path):
    changed = (scene.notes / "301").read_bytes().replace(b"\n301\n", b"\n302\n")
    (scene.notes / "11").write_bytes(b"no note")
    (scene.notes / "301").write_bytes(changed)
    (scene.notes / "600").rename(scene.notes / "599")
    (scene.notes / "600").symlink_to(scene.notes / "599")
    (scene.notes / "7").mkdir()
    (scene.notes / "12").write_text(scene.text(12))
    os.mkfifo(scene.notes / "8")
    damaged = [("checkpoint-damaged", None, f"{FOLDER}/{name}") for name in (7, 8, 11, 12, 301, 599, 600)]
    assert scene.codes(changed, b"nothing", b"") == [("checkpoint-damaged", None, f"given/{n}") for n in range(3)] + damaged
    details = {each.path.rpartition("/")[2]: each.detail for each in scene.found.damaged}
    assert details["0"] == "its signature is wrong: it was changed after it was signed"
    assert (details["599"], details["600"]) == ("it states 600 entries", "it is empty, or not a regular file")


@pytest.mark.parametrize("payload", [{"vkey": "no key"}, {"vkey": 7}, {}])
def test_an_entry_that_names_no_key_is_reported_and_checkpoints_are_still_compared(scene, payload):
    with scene.ledger.write() as tx:
        position = tx.append(NewEntry(Kind.KEY, payload)).position
    assert scene.check() == Agreement(4, 600)
    assert [(each.code, each.position, each.path) for each in scene.found.damaged] == [("entry-not-understood", position, "ledger.db")]


def test_a_note_of_another_ledger_is_named_as_such(scene):
    origin = "hospital.example/019b7a5f-2c00-7000-8000-000000000001"
    note = scene.text(11, origin=origin).encode()
    assert scene.codes(note) == [("checkpoint-foreign", None, "given/0")]
    assert origin in scene.detail()


def test_a_note_in_the_archive_needs_a_key_of_the_ledger_and_one_from_elsewhere_does_not(scene, tmp_path):
    other = keys.make(tmp_path / "other.key", scene.origin)
    text = scene.text(400)
    forged = SignedNote(text, (other.sign(text),)).data
    assert scene.codes(forged) == []
    (scene.notes / "400").write_bytes(forged)
    assert scene.codes() == [("checkpoint-damaged", None, f"{FOLDER}/400")]
    assert "signed by no key that the ledger records" in scene.detail()


def test_what_else_lies_in_the_folder_is_reported(scene):
    (scene.notes / "11.cosig").mkdir()
    for name in ("11.cosig/witness", "11.tsr", "12.tsr", "011", "notes.txt"):
        (scene.notes / name).write_bytes(b"")
    (scene.notes / "13.cosig").mkdir()
    untracked = [("untracked-file", None, f"{FOLDER}/{name}") for name in ("011", "notes.txt")]
    assert scene.codes() == [*untracked, *(("checkpoint-missing", None, f"{FOLDER}/{name}") for name in ("12.tsr", "13.cosig"))]


def test_a_deleted_note_whose_copy_is_on_the_ledger_s_volume_is_reported(scene):
    (scene.notes / "301").unlink()
    assert scene.codes() == [], "of an older one nothing is left that could be missed"
    (scene.notes / "600").unlink()
    assert scene.codes() == [("checkpoint-missing", None, f"{FOLDER}/600")]
    assert scene.detail() == "it is missing; checkpoint.latest in LEDGER_PATH is its copy"
    scene.notes.rename(scene.root / "elsewhere")
    assert scene.codes() == [("checkpoint-missing", None, f"{FOLDER}/600")]


def test_a_file_of_a_witness_that_holds_no_signature_is_reported(scene):
    signature = keys.make(scene.root / "w.key", "north").sign(scene.text(11)).line
    scene.folder.add_cosignatures(11, "north", signature)
    for name in ("a", ".checkpoint.tmp"):
        (scene.notes / "11.cosig" / name).write_text(signature.replace("north", "nor\x07th"))
    assert scene.codes() == [("checkpoint-damaged", None, f"{FOLDER}/11.cosig/a")]


def test_an_entry_that_is_damaged_in_the_ledger_alone_is_taken_from_the_mirror(scene):
    damage(scene.ledger, "UPDATE entries SET leaf_hash = zeroblob(32), kind = 'nothing' WHERE position IN (1, 300, 599)")
    [position] = [entry.position for entry in scene.ledger.read(0, 600) if entry.kind == "key"]
    damage(scene.ledger, f"UPDATE entries SET kind = 'nothing' WHERE position = {position}")
    assert scene.codes() == []
    assert scene.check().count == 4


def test_an_entry_that_is_lost_in_both_is_reported_once_and_smaller_checkpoints_are_compared(scene):
    damage(scene.ledger, "UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 300")
    for segment in (scene.archive / ".ledger").glob("*.entries"):
        segment.unlink()
    assert scene.check(scene.text(299).encode()) == Agreement(2, 299)
    assert scene.found.damaged == []
    assert [(each.code, each.position) for each in scene.found.unchecked] == [("ledger-damaged", 300)]


def test_an_archive_that_is_away_hides_its_own_checkpoints_alone(scene, tmp_path):
    scene.archive.rename(tmp_path / "away")
    assert scene.check(scene.text(300, Tree().root()).encode()).count == 1
    assert [(each.code, each.path) for each in scene.found.unchecked] == [("archive-missing", FOLDER)]
    assert [each.code for each in scene.found.damaged] == ["checkpoint-mismatch"]
