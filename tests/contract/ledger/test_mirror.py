"""The mirror in a real folder: it follows the ledger, repairs what a crash tore, and refuses another ledger's mirror."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Entry, Kind, NewEntry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.errors import LedgerUnusable, Retryable
from storage_ledger.ledger.mirror import segments, writer
from storage_ledger.ledger.mirror.reader import entries, mirror_position
from storage_ledger.ledger.mirror.segments import BatchSeal, SegmentHeader
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.files import FolderId
from tests.support.making import damage, described, fill, small_volume


class Scene:
    """A ledger, an archive folder, and a mirror object for each process."""

    def __init__(self, root: Path, ledgers, archive: Path | None = None) -> None:
        self.root = root
        self.archive = archive or root / "archive"
        self.archive.mkdir(exist_ok=True)
        self.ledger: SqliteLedger = ledgers.open(root / "ledger")
        self.folder = self.archive / ".ledger"
        self.recognised: list[FolderId] = []

    def mirror(self) -> Mirror:
        return Mirror(self.archive, self.root / "mirror.lock", self.ledger, on_recognised=self.recognised.append)

    def append(self, count: int, text: str = "é") -> None:
        with self.ledger.write() as tx:
            for i in range(count):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm", {"note": text}), f"s{i}"))

    def begun(self, count: int = 0) -> Mirror:
        mirror = self.mirror()
        mirror.begin()
        self.append(count)
        mirror.catch_up()
        return mirror

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name != "damaged")

    def bytes(self) -> bytes:
        return b"".join((self.folder / name).read_bytes() for name in self.names())

    def assert_mirrors_the_ledger(self) -> None:
        """Assert that every line is complete, every segment begins where the one before ended, and everything matches the ledger."""
        tree, found = Tree(), []
        for name in self.names():
            data = (self.folder / name).read_bytes()
            assert data.endswith(b"\n")
            assert segments.first_position(name) == tree.size + 1
            lines = [line for _, line in segments.lines(data)]
            assert lines[0] == SegmentHeader(self.ledger.ledger_id, tree)
            for line in lines[1:]:
                if isinstance(line, Entry):
                    tree.append(line.leaf_hash)
                    found.append(line)
                else:
                    assert line == BatchSeal(self.ledger.ledger_id, tree.size, tree.root())
            assert len(lines) == 1 or isinstance(lines[-1], BatchSeal)
        assert found == self.ledger.read(0, 100_000)


@pytest.fixture
def scene(tmp_path, ledgers):
    return Scene(tmp_path, ledgers)


def test_every_entry_is_mirrored_as_it_is_in_the_ledger(scene):
    mirror = scene.begun()
    for count in (1, 3, 20):
        scene.append(count)
        assert mirror.catch_up() == count
        scene.assert_mirrors_the_ledger()
    assert mirror.position == 24 == mirror_position(scene.archive)
    assert mirror.catch_up() == 0
    assert [oct(os.stat(scene.folder / name).st_mode)[-3:] for name in scene.names()] == ["640"]
    assert oct(scene.folder.stat().st_mode)[-3:] == "750"


def test_a_batch_that_reaches_the_ledgers_end_is_read_once(scene, monkeypatch):
    mirror = scene.begun()
    scene.append(3)
    asked, read = [], scene.ledger.read
    monkeypatch.setattr(scene.ledger, "read", lambda after, limit: asked.append(after) or read(after, limit))
    assert (mirror.catch_up(), asked) == (3, [0])
    assert (mirror.catch_up(), asked) == (0, [0, 3])


def test_a_new_segment_begins_when_one_is_full(scene, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", 10)
    mirror = scene.begun()
    for count in (7, 4, 1, 25, 1):
        scene.append(count)
        mirror.catch_up()
    assert [segments.first_position(name) for name in scene.names()] == [1, 12, 23, 33]
    scene.assert_mirrors_the_ledger()
    again = scene.mirror()
    scene.append(3)
    again.catch_up()
    scene.assert_mirrors_the_ledger()


def test_a_large_segment_is_full_too(scene, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 10_000)
    mirror = scene.begun()
    for _ in range(4):
        scene.append(2, "x" * 6000)
        mirror.catch_up()
    assert len(scene.names()) == 4
    scene.assert_mirrors_the_ledger()


def test_a_mirror_that_lags_is_caught_up_by_whoever_comes(scene):
    scene.begun(3)
    scene.append(400)
    assert scene.mirror().catch_up() == 400
    scene.assert_mirrors_the_ledger()


def test_two_processes_take_turns(scene):
    first, second = scene.begun(2), scene.mirror()
    for mirror in (second, first, first, second, first):
        scene.append(3)
        mirror.catch_up()
        scene.assert_mirrors_the_ledger()
    assert first.position == 17


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_crash_leaves_of_the_last_batch_is_mended(scene, seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", rng.choice((4, 4096)))
    mirror = scene.begun(4)
    kept = mirror_position(scene.archive)
    name = scene.names()[-1]
    before = (scene.folder / name).read_bytes()
    scene.append(rng.randrange(1, 6))
    mirror.catch_up()
    last = scene.folder / scene.names()[-1]
    data = last.read_bytes()
    begin = len(before) if last.name == name else 0
    cut = rng.randrange(begin, len(data) + 1)
    torn = data[:cut] + rng.choice((b"", bytes(rng.randrange(1, 5000))))  # a file may be longer than what reached the disk
    last.write_bytes(torn)
    assert mirror_position(scene.archive) >= kept
    again = scene.mirror()
    again.check()
    again.catch_up()
    scene.assert_mirrors_the_ledger()
    assert not (scene.folder / "damaged").exists()


def test_damage_in_the_last_segment_is_set_aside_and_mended_from_the_ledger(scene):
    scene.begun(5)
    file = scene.folder / scene.names()[-1]
    right = file.read_bytes()
    for offset in range(0, len(right), 97):
        file.write_bytes(right[:offset] + bytes([right[offset] ^ 1]) + right[offset + 1 :])
        damaged = file.read_bytes()
        scene.mirror().catch_up()
        scene.assert_mirrors_the_ledger()
        if file.stat().st_size == len(right):
            assert damaged in [path.read_bytes() for path in (scene.folder / "damaged").iterdir()]


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_of_a_line_goes_unseen(scene, bit):
    scene.begun(2)
    right = scene.bytes()
    lines = list(segments.lines(right))
    for offset in range(len(right)):
        flipped = right[:offset] + bytes([right[offset] ^ (1 << bit)]) + right[offset + 1 :]
        seen = list(segments.lines(flipped))
        assert seen != lines
        assert all(line is None or line in [whole for _, whole in lines] for _, line in seen)  # and none reads as another line


def test_the_mirror_of_another_ledger_is_refused(scene, tmp_path, ledgers):
    scene.begun(3)
    (tmp_path / "other").mkdir()
    other = Scene(tmp_path / "other", ledgers, archive=scene.archive)
    with other.ledger._writer.transaction() as connection:
        connection.execute("UPDATE meta SET value = '0198f3a0-0000-7000-8000-000000000000' WHERE name = 'ledger_id'")
    other.ledger.ledger_id = "0198f3a0-0000-7000-8000-000000000000"
    for count in (0, 2):
        other.append(count)
        other.mirror().begin()
        with pytest.raises(LedgerUnusable, match="restore --from-mirror") as caught:
            other.mirror().check()
        assert caught.value.code == "mirror-foreign"


def test_a_mirror_ahead_of_the_ledger_is_refused(scene, tmp_path):
    mirror = scene.begun(3)
    shutil.copytree(scene.root / "ledger", tmp_path / "backup")
    scene.append(2)
    mirror.catch_up()
    scene.ledger.close()
    scene.ledger = SqliteLedger(tmp_path / "backup" / "ledger.db")
    with pytest.raises(LedgerUnusable, match=r"position 5.*restore --from-mirror") as caught:
        scene.mirror().check()
    assert caught.value.code == "mirror-ahead"
    with pytest.raises(LedgerUnusable):
        scene.mirror().catch_up()


def test_even_entries_of_a_torn_batch_show_that_the_ledger_is_behind(scene, tmp_path):
    mirror = scene.begun(3)
    shutil.copytree(scene.root / "ledger", tmp_path / "backup")
    scene.append(2)
    mirror.catch_up()
    file = scene.folder / scene.names()[-1]
    file.write_bytes(file.read_bytes().rpartition(b"batch")[0])
    scene.ledger.close()
    scene.ledger = SqliteLedger(tmp_path / "backup" / "ledger.db")
    with pytest.raises(LedgerUnusable, match="position 5"):
        scene.mirror().check()


def test_a_ledger_that_went_on_from_an_old_copy_is_refused(scene, tmp_path):
    mirror = scene.begun(3)
    shutil.copytree(scene.root / "ledger", tmp_path / "backup")
    scene.append(2)
    mirror.catch_up()
    before = scene.bytes()
    scene.ledger.close()
    scene.ledger = SqliteLedger(tmp_path / "backup" / "ledger.db")
    scene.append(4)
    with pytest.raises(LedgerUnusable, match="position 4") as caught:
        scene.mirror().check()
    assert caught.value.code == "mirror-disagrees"
    with pytest.raises(LedgerUnusable):
        scene.mirror().catch_up()
    assert scene.bytes() == before


def test_a_missing_mirror_is_refused_once_there_are_entries(scene):
    mirror = scene.begun(3)
    shutil.rmtree(scene.folder)
    scene.mirror().begin()
    with pytest.raises(LedgerUnusable, match="replay --mirror") as caught:
        scene.mirror().check()
    assert caught.value.code == "mirror-missing"
    scene.append(1)
    with pytest.raises(Retryable) as came_off:  # while we run: the volume may come back
        mirror.catch_up()
    assert came_off.value.code == "archive-missing"
    assert not scene.folder.exists()


def test_rewriting_makes_it_anew_and_keeps_the_old_one(scene, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", 10)
    scene.begun(25)
    old = scene.names()
    (scene.folder / old[0]).write_bytes(b"damaged\n")
    seen: list[int] = []
    assert scene.mirror().rewrite(seen.append) == 25
    assert seen == [10, 20, 25]
    scene.assert_mirrors_the_ledger()
    assert len(os.listdir(scene.folder / "damaged")) == len(old)
    shutil.rmtree(scene.folder)
    assert scene.mirror().rewrite() == 25
    scene.assert_mirrors_the_ledger()


def test_rewriting_that_is_cut_short_leaves_a_mirror_that_only_ends_earlier(scene, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", 10)
    scene.begun(25)
    old = scene.names()
    with immovable(scene.folder / old[1]), pytest.raises(Retryable):
        scene.mirror().rewrite()
    assert scene.names() == old[:2]
    assert list(entries(scene.archive, scene.ledger.ledger_id)) == scene.ledger.read(0, 20)
    scene.mirror().catch_up()
    scene.assert_mirrors_the_ledger()


@contextmanager
def immovable(file: Path) -> Iterator[None]:
    """Make a mount point, which cannot be renamed. Skips the test where that is impossible."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a file that cannot be renamed takes root and mount(8)")
    subprocess.run(["mount", "--bind", file, file], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", file], check=True)


def test_another_folder_in_the_place_of_the_archive_is_not_written_to(scene):
    mirror = scene.begun(3)
    scene.archive.rename(scene.root / "came-off")
    scene.archive.mkdir()
    scene.append(1)
    with pytest.raises(Retryable):
        mirror.catch_up()
    assert list(scene.archive.iterdir()) == []
    scene.archive.rmdir()
    (scene.root / "came-off").rename(scene.archive)
    assert mirror.catch_up() == 1
    scene.assert_mirrors_the_ledger()
    assert len(set(scene.recognised)) == 1


def test_a_full_volume_is_an_error_that_goes_away(tmp_path, ledgers):
    with small_volume(tmp_path / "small", "256k") as volume:
        scene = Scene(tmp_path, ledgers, archive=volume)
        mirror = scene.begun(3)
        fill(volume / "filler")
        scene.append(20, "x" * 5000)
        for _ in range(3):
            with pytest.raises(Retryable) as caught:
                mirror.catch_up()
            assert (caught.value.code, caught.value.shared) == ("archive-full", True)
        assert mirror.position == 3
        (volume / "filler").unlink()
        assert mirror.catch_up() == 20
        scene.assert_mirrors_the_ledger()
        assert not (scene.folder / "damaged").exists()
        scene.ledger.close()


def test_what_lies_below_the_folder_besides_is_left_alone(scene):
    mirror = scene.begun(1)
    for name in ("notes.txt", "1.entries", "000000000000.entries"):
        (scene.folder / name).write_text("mine")
    scene.append(1)
    mirror.catch_up()
    scene.mirror().catch_up()
    assert {name: (scene.folder / name).read_text() for name in ("notes.txt", "1.entries")} == {"notes.txt": "mine", "1.entries": "mine"}


HURT = {
    "payload": "UPDATE entries SET payload = replace(payload, 'dcm', 'dcn') WHERE position = {}",
    "no UTF-8": "UPDATE entries SET payload = CAST(x'7bff7d' AS TEXT) WHERE position = {}",
    "header": "UPDATE entries SET kind = 'archived' WHERE position = {}",
    "leaf hash": "UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = {}",
}


@pytest.mark.parametrize("how", HURT)
def test_what_is_damaged_in_the_ledger_stays_whole_in_the_mirror(scene, how):
    scene.begun(3)
    before = scene.bytes()
    entries = scene.ledger.read(0, 10)
    damage(scene.ledger, HURT[how].format(2))
    again = scene.mirror()
    again.check()
    again.catch_up()
    assert scene.bytes() == before
    scene.append(2)
    again.catch_up()
    assert not (scene.folder / "damaged").exists()
    found = [line for name in scene.names() for _, line in segments.lines((scene.folder / name).read_bytes()) if isinstance(line, Entry)]
    assert found[:3] == entries
    assert [each.position for each in found] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", HURT)
def test_a_damaged_entry_is_not_mirrored_unless_the_mirror_is_made_anew(scene, how):
    mirror = scene.begun(1)
    scene.append(2)
    before = scene.bytes()
    damage(scene.ledger, HURT[how].format(2))
    for each in (mirror, scene.mirror()):
        with pytest.raises(LedgerUnusable, match="ledger-damaged: the entry at position 2"):
            each.catch_up()
    assert scene.bytes() == before
    assert mirror.rewrite() == 3
    scene.append(1)
    again = scene.mirror()
    again.check()
    again.catch_up()
    lines = [line for _, line in segments.lines((scene.folder / scene.names()[0]).read_bytes())]
    assert [each.position if isinstance(each, Entry) else each and type(each).__name__ for each in lines] == (
        ["SegmentHeader", 1, None, 3, "BatchSeal", 4, "BatchSeal"]
    )


def test_who_holds_the_lock_for_ever_holds_up_nobody_for_ever(tmp_path, ledgers, monkeypatch):
    scene = Scene(tmp_path, ledgers)
    mirror = scene.begun(1)
    monkeypatch.setattr(writer, "LOCK_WITHIN_S", 0.2)
    with (tmp_path / "mirror.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retryable) as caught:
            mirror.catch_up()
    assert (caught.value.code, caught.value.shared) == ("mirror-busy", True)
    mirror.catch_up()
    assert mirror.position == 1
    scene.ledger.close()
