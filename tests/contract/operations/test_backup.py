"""A backup is complete or does not exist, and a restore replaces the ledger only if nothing is lost."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Entry, Kind, NewEntry
from storage_ledger.errors import BackupError, LedgerUnusable, Locked
from storage_ledger.ledger.mirror import segments
from storage_ledger.ledger.mirror.segments import BatchSeal, SegmentHeader
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations import backup
from storage_ledger.operations.restore import MirrorContinues, MirrorDamaged, RestoreReport, from_backup, from_mirror
from storage_ledger.system.sqlite import sqlite
from tests.support.making import Ledgers, described, fill, small_volume

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


class Scene:
    """A ledger with its mirror, and a folder for backups."""

    def __init__(self, root: Path, ledgers: Ledgers) -> None:
        self.archive = root / "archive"
        self.dest = root / "backups"
        self.file = root / "ledger" / "ledger.db"
        self.archive.mkdir(parents=True)
        self.ledger = ledgers.open(root / "ledger")
        self.mirror = Mirror(self.archive, root / "mirror.lock", self.ledger)
        self.mirror.begin()
        self.now = NOW

    def append(self, count: int, text: str = "é") -> None:
        with self.ledger.write() as tx:
            for i in range(count):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{i}.dcm", {"note": text}), f"s{i}"))
        self.mirror.catch_up()

    def back_up(self, dest: Path | None = None) -> Path:
        self.now += timedelta(seconds=1)
        return backup.back_up(self.file, dest or self.dest, now=self.now)[0]

    def restore(self, place: Path | None = None, *, force: bool = False, with_mirror: bool = False) -> RestoreReport:
        self.ledger.close()
        self.asked: list[tuple[int, int]] = []

        def ask(backed_up: int, mirrored: int) -> bool:
            self.asked.append((backed_up, mirrored))
            return with_mirror

        done = from_backup(place or self.dest, self.archive, self.file, force=force, with_mirror=ask)
        self.ledger = SqliteLedger(self.file)
        return done

    def lose(self) -> None:
        """Empty the ledger's volume."""
        self.ledger.close()
        for path in self.file.parent.iterdir():
            path.unlink()

    def rows(self) -> list[tuple]:
        return [*self.ledger.read(0, 100_000), self.ledger.queue()]


@pytest.fixture
def scene(tmp_path, ledgers):
    made = Scene(tmp_path, ledgers)
    yield made
    made.ledger.close()


def content(file: Path) -> list[tuple]:
    connection = sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)
    found = [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("entries", "pending", "meta")]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return found


def test_a_backup_is_one_file_with_the_whole_ledger_and_a_manifest(scene):
    scene.append(30)
    folder = scene.back_up()
    assert sorted(os.listdir(scene.dest)) == [folder.name] == ["ledger-20260102T030406000006Z"]
    assert sorted(os.listdir(folder)) == ["ledger.db", "manifest.json"]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in (folder, *sorted(folder.iterdir()))] == ["0o750", "0o640", "0o640"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["ledger_id"] == scene.ledger.ledger_id
    assert (manifest["position"], manifest["leaf_hash"]) == (30, scene.ledger.last().leaf_hash.hex())
    assert (manifest["revision"], manifest["created"]) == ("0004", "2026-01-02T03:04:06.000006Z")
    assert backup.find(folder) == backup.find(scene.dest)
    before = scene.rows()
    found = content(folder / "ledger.db")
    assert len(found[0]) == len(found[1]) == 30
    assert scene.rows() == before


def test_a_backup_made_during_writes_is_a_consistent_snapshot(scene):
    scene.append(3000, "x" * 3000)
    stop, written = threading.Event(), []

    def write() -> None:
        other = SqliteLedger(scene.file)
        while not stop.is_set():
            with other.write() as tx:
                written.append(tx.append(NewEntry(Kind.DESCRIBED, described("more.dcm"), "more")).position)
        other.close()

    writer = threading.Thread(target=write)
    writer.start()
    steps: list[tuple[str, int]] = []
    folder, manifest = backup.back_up(scene.file, scene.dest, now=NOW, on_progress=lambda step, done, _: steps.append((step, done)))
    stop.set()
    writer.join()
    assert written
    copied = [done for step, done in steps if step == "copied"]
    assert copied == sorted(set(copied))  # never restarted
    assert len(copied) > 1
    assert len(content(folder / "ledger.db")[0]) == manifest.position >= 3000
    assert scene.ledger.last().position == written[-1]


def test_an_empty_ledger_can_be_backed_up_and_restored(scene):
    folder = scene.back_up()
    assert backup.find(folder)[1].position == 0
    assert scene.restore().entries == 0


def test_backup_of_an_empty_ledger_is_restored_onto_an_empty_volume(scene):
    scene.back_up()
    ledger_id = scene.ledger.ledger_id
    scene.append(3)
    scene.lose()
    assert scene.restore().not_restored == (MirrorContinues(3),)
    assert scene.ledger.ledger_id == ledger_id


def test_several_backups_share_a_folder_and_the_newest_is_used(scene):
    for count in (1, 2, 3):
        scene.append(count)
        scene.back_up()
    assert len(os.listdir(scene.dest)) == 3
    assert backup.find(scene.dest)[1].position == 6
    scene.now -= timedelta(seconds=1)
    with pytest.raises(BackupError, match="backup-exists"):
        scene.back_up()
    assert len(os.listdir(scene.dest)) == 3


def test_leftovers_of_a_killed_backup_do_not_count_and_the_next_backup_removes_them(scene):
    scene.append(1)
    left = scene.dest / ".ledger-20200101T000000000000Z.part"
    left.mkdir(parents=True)
    (left / "ledger.db").write_bytes(b"half")
    with pytest.raises(BackupError, match="backup-missing"):
        backup.find(scene.dest)
    (scene.dest / "notes.txt").write_text("mine")
    scene.back_up()
    assert not left.exists()
    assert (scene.dest / "notes.txt").exists()


def test_a_second_simultaneous_backup_into_one_folder_is_refused(scene):
    scene.dest.mkdir()
    descriptor = os.open(scene.dest, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Locked):
        scene.back_up()
    os.close(descriptor)
    scene.back_up()


def test_a_full_volume_leaves_nothing_behind_and_says_so(scene, tmp_path):
    scene.append(500, "x" * 4000)
    with small_volume(tmp_path / "small", "1m") as small:
        with pytest.raises(BackupError, match=r"backup-full: .*small.* is full"):
            scene.back_up(small)
        assert os.listdir(small) == []
        fill(small / "full")
        with pytest.raises(BackupError, match="backup-full"):
            scene.back_up(small)
        assert os.listdir(small) == ["full"]


@pytest.mark.parametrize("dest", ["no/such/parent", "a-file"])
def test_a_folder_that_cannot_be_created_is_named_in_the_error(scene, tmp_path, dest):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(BackupError, match=rf"backup-folder: .*{dest}"):
        scene.back_up(tmp_path / dest)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named_in_the_error_with_the_user(scene, tmp_path):
    (tmp_path / "theirs").mkdir(0o555)
    with pytest.raises(BackupError, match=rf"backup-folder: {tmp_path / 'theirs'}: user {os.geteuid()} may not write there"):
        scene.back_up(tmp_path / "theirs")


def test_a_damaged_ledger_is_not_backed_up_and_the_error_names_the_position(scene):
    scene.append(5)
    scene.ledger.close()
    connection = sqlite.connect(scene.file)
    connection.executescript("DROP TRIGGER entries_update; UPDATE entries SET payload = payload || ' ' WHERE position = 3")
    connection.close()
    with pytest.raises(BackupError, match="backup-damaged: the entry at position 3: payload-changed"):
        scene.back_up()
    assert os.listdir(scene.dest) == []
    scene.ledger = SqliteLedger(scene.file)


def test_a_lost_ledger_is_restored_entry_for_entry_with_its_work_queue(scene):
    scene.append(30)
    scene.back_up()
    before = scene.rows()
    scene.lose()
    done = scene.restore()
    assert scene.rows() == before
    assert (done.entries, done.appended, done.set_aside, done.not_restored) == (30, 0, None, ())
    assert stat.S_IMODE(scene.file.stat().st_mode) == 0o640
    scene.append(1)
    assert sorted(path.name for path in scene.file.parent.iterdir() if "restor" in path.name) == []


def test_restoring_an_old_backup_offers_the_later_entries_of_the_mirror(scene):
    scene.append(10)
    scene.back_up()
    scene.append(20)
    before = scene.rows()
    scene.lose()
    done = scene.restore()
    assert (scene.asked, done.entries, done.not_restored) == ([(10, 30)], 10, (MirrorContinues(30),))
    with pytest.raises(LedgerUnusable, match=r"mirror-ahead.*restore --from-mirror"):
        Mirror(scene.archive, scene.file.with_name("mirror.lock"), scene.ledger).check()
    done = scene.restore(with_mirror=True)
    assert (done.entries, done.appended, done.not_restored) == (30, 20, ())
    assert scene.rows() == before
    done = scene.restore(with_mirror=True)  # killed at its very end and run again
    assert (done.entries, done.appended, done.set_aside) == (30, 0, None)
    assert scene.rows() == before


@pytest.mark.parametrize("segment", [10, 4096])
@pytest.mark.parametrize("at", ["begin", 3, 20, 23, "batch"])
def test_a_mirror_that_is_damaged_only_before_the_end_of_the_backup_gives_the_rest(scene, monkeypatch, segment, at):
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", segment)
    scene.append(13)
    scene.append(10)
    scene.back_up()
    scene.append(12)
    before = scene.rows()
    damage_line(scene.archive, at, up_to=23)
    scene.lose()
    done = scene.restore(with_mirror=True)
    assert (done.entries, done.appended, scene.rows()) == (35, 12, before)


@pytest.mark.parametrize("at", [24, 30])
def test_a_mirror_that_is_damaged_beyond_the_end_of_the_backup_does_not_give_the_rest(scene, at):
    scene.append(23)
    scene.back_up()
    scene.append(12)
    damage_line(scene.archive, at, up_to=35)
    scene.lose()
    with pytest.raises(LedgerUnusable, match=r"mirror-damaged: \.ledger/000000000001\.entries, line "):
        from_backup(scene.dest, scene.archive, scene.file, force=False, with_mirror=lambda *_: True)
    assert list(scene.file.parent.iterdir()) == []


@pytest.mark.parametrize("at", [3, 24, 30, 35, "batch"])
def test_entries_before_the_damage_in_a_mirror_are_restored_on_request(scene, at):
    scene.append(12)
    scene.append(11)
    scene.back_up()
    scene.append(6)
    scene.append(6)
    before = scene.ledger.read(0, 1000)
    damage_line(scene.archive, at, up_to=35)
    scene.lose()
    proved = {3: 0, 24: 23, 30: 29, 35: 29, "batch": 0}[at]
    with pytest.raises(LedgerUnusable, match=r"mirror-damaged: .*--up-to-damage"):
        from_mirror(scene.archive, scene.file)
    if not proved:
        with pytest.raises(LedgerUnusable, match="mirror-damaged"):
            from_mirror(scene.archive, scene.file, up_to_damage=True)
        assert list(scene.file.parent.iterdir()) == []
    else:
        done = from_mirror(scene.archive, scene.file, up_to_damage=True)
        assert (done.entries, [type(each) for each in done.not_restored]) == (proved, [MirrorDamaged])
        scene.ledger = SqliteLedger(scene.file)
        assert scene.ledger.read(0, 1000) == before[:proved]
        scene.lose()
    done = from_backup(scene.dest, scene.archive, scene.file, force=False, with_mirror=lambda *_: True, up_to_damage=True)
    assert (done.entries, [type(each) for each in done.not_restored]) == (proved or 35, [MirrorDamaged] if proved else [])
    scene.ledger = SqliteLedger(scene.file)
    assert scene.ledger.read(0, 1000) == before[: done.entries]


def test_later_entries_of_a_mirror_that_diverges_from_the_backup_are_not_restored(scene, tmp_path, ledgers):
    scene.append(10)
    scene.back_up()
    other = Scene(tmp_path / "other", ledgers)
    other.append(20, "something else")
    damage_line(other.archive, 10, up_to=20)
    scene.archive = other.archive
    scene.lose()
    with pytest.raises(LedgerUnusable, match="mirror-damaged"):
        from_backup(scene.dest, scene.archive, scene.file, force=False, with_mirror=lambda *_: True)
    assert list(scene.file.parent.iterdir()) == []
    done = from_backup(scene.dest, scene.archive, scene.file, force=False, with_mirror=lambda *_: True, up_to_damage=True)
    assert (done.entries, done.appended, [type(each) for each in done.not_restored]) == (10, 0, [MirrorDamaged])
    other.ledger.close()


def damage_line(archive: Path, at: int | str, *, up_to: int) -> None:
    """Flip a bit in the entry at this position, in a segment's first line, or in a batch's end not beyond `up_to`."""
    for path in sorted((archive / ".ledger").glob("*.entries")):
        lines = path.read_bytes().splitlines(keepends=True)
        for n, line in enumerate(lines):
            match segments.parse(line[:-1]):
                case SegmentHeader():
                    hit = at == "begin"
                case BatchSeal(size=size):
                    hit = at == "batch" and size <= up_to
                case Entry(position=position):
                    hit = at == position
                case _:
                    raise AssertionError(line)
            if hit:
                lines[n] = line[:30] + bytes([line[30] ^ 1]) + line[31:]
                path.write_bytes(b"".join(lines))
                return
    raise AssertionError(at)


def test_a_ledger_with_entries_that_the_backup_lacks_stays_without_force(scene):
    scene.append(10)
    scene.back_up()
    scene.append(5)
    before = scene.rows()
    shutil.rmtree(scene.archive)
    with pytest.raises(BackupError, match=r"backup-older: .*position 15.*only to 10.*--force"):
        scene.restore()
    scene.ledger = SqliteLedger(scene.file)
    assert scene.rows() == before
    done = scene.restore(force=True)
    assert scene.ledger.last().position == 10
    assert done.set_aside is not None
    kept = SqliteLedger(done.set_aside)
    assert kept.last().position == 15
    kept.close()


def test_a_ledger_that_the_backup_continues_is_set_aside_and_replaced(scene, tmp_path):
    scene.append(10)
    scene.ledger.close()
    shutil.copy(scene.file, tmp_path / "old")
    scene.ledger = SqliteLedger(scene.file)
    scene.append(5)
    scene.back_up()
    before = scene.rows()
    scene.lose()
    shutil.copy(tmp_path / "old", scene.file)
    done = scene.restore()
    assert scene.rows() == before
    assert done.set_aside is not None
    assert done.set_aside.exists()
    assert scene.restore().set_aside is None  # nothing more to do


def test_a_foreign_or_diverged_ledger_is_kept_without_force(scene, tmp_path, ledgers):
    scene.append(10)
    scene.back_up()
    other = Scene(tmp_path / "other", ledgers)
    connection = sqlite.connect(other.file)
    with connection:
        connection.execute("UPDATE meta SET value = 'another' WHERE name = 'ledger_id'")
    connection.close()
    other.ledger.close()
    other.ledger = SqliteLedger(other.file)
    other.append(3)
    with pytest.raises(LedgerUnusable, match=r"ledger-foreign: .*another"):
        other.restore(scene.dest)
    connection = sqlite.connect(other.file)
    with connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'ledger_id'", (scene.ledger.ledger_id,))
    connection.close()
    with pytest.raises(BackupError, match=r"backup-disagrees: .*position 3"):
        other.restore(scene.dest)
    assert other.restore(scene.dest, force=True).entries == 10


def test_a_backup_of_a_different_ledger_from_the_mirrors_is_refused_even_without_a_ledger(scene):
    scene.append(5)
    ours, newest = scene.back_up(), scene.back_up()
    remade(newest, "UPDATE meta SET value = 'another' WHERE name = 'ledger_id'", ledger_id="another")
    scene.lose()
    with pytest.raises(LedgerUnusable, match=f"mirror-foreign: .* of ledger another; .* {scene.ledger.ledger_id}"):
        from_backup(scene.dest, scene.archive, scene.file, force=False, with_mirror=lambda *_: False)
    assert list(scene.file.parent.iterdir()) == []
    assert scene.restore(ours).entries == 5
    assert scene.restore(force=True).ledger_id == "another"


def test_a_ledger_that_cannot_be_read_stays_without_force(scene):
    scene.append(10)
    scene.back_up()
    scene.lose()
    scene.file.write_bytes(b"SQLite format 3\0" + random.Random(1).randbytes(8192))
    damaged = scene.file.read_bytes()
    with pytest.raises(LedgerUnusable, match="With --force that ledger is set aside"):
        scene.restore()
    assert scene.file.read_bytes() == damaged
    done = scene.restore(force=True)
    assert done.entries == 10
    assert done.set_aside is not None
    assert done.set_aside.read_bytes() == damaged


@pytest.mark.parametrize("victim", ["ledger.db", "manifest.json"])
def test_any_flipped_bit_in_a_backup_is_detected_and_nothing_is_changed(scene, victim):
    scene.append(5)
    folder = scene.back_up()
    scene.lose()
    scene.ledger = SqliteLedger(shutil.copy(folder / "ledger.db", scene.file))  # something to lose
    good = (folder / victim).read_bytes()
    rng = random.Random(7)
    for _ in range(20):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / victim).write_bytes(data)
        try:
            scene.restore(folder)
        except BackupError as error:
            assert error.code in {"backup-damaged", "backup-newer"}  # noqa: PT017 - the other outcome is judged below
        else:
            said, before = json.loads(data), json.loads(good)
            assert {key for key in before if said[key] != before[key]} <= {"created", "program"}
        assert not scene.file.with_name("ledger.db.restoring").exists()
    scene.ledger = SqliteLedger(scene.file)


def remade(folder: Path, statements: str, **says: object) -> None:
    """Change a backup's ledger and its manifest, as another version of the program or a forger would make them."""
    if statements:
        with closing(sqlite.connect(folder / "ledger.db")) as connection:
            connection.executescript(statements)
    data = (folder / "ledger.db").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **says}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("victim", ["ledger.db", "manifest.json"])
@pytest.mark.parametrize("kind", ["fifo", "endless"])
def test_a_backup_with_a_fifo_or_a_device_in_place_of_a_file_is_damaged(scene, victim, kind):
    scene.append(3)
    folder = scene.back_up()
    scene.lose()
    (folder / victim).unlink()
    if kind == "fifo":
        os.mkfifo(folder / victim)
    else:
        (folder / victim).symlink_to("/dev/zero")
    with pytest.raises(BackupError, match=f"backup-damaged: .*{victim} is not a regular file"):
        from_backup(folder, scene.archive, scene.file, force=False, with_mirror=lambda *_: False)
    assert list(scene.file.parent.iterdir()) == []


def test_no_more_of_a_backup_is_copied_than_its_manifest_says(scene):
    scene.append(3)
    folder, manifest = backup.find(scene.back_up())
    os.truncate(folder / "ledger.db", 64 << 20)
    copied: list[int] = []
    with pytest.raises(BackupError, match="backup-damaged"):
        backup.take_out(folder, manifest, scene.file.with_name("copy"), lambda _, done, __: copied.append(done))
    assert manifest.bytes < max(copied) < 4 << 20


def test_a_backup_made_by_a_newer_version_is_reported_as_newer(scene):
    scene.append(3)
    folder = scene.back_up()
    remade(folder, "UPDATE alembic_version SET version_num = '9999'; ALTER TABLE entries RENAME COLUMN salt TO pepper", revision="9999")
    scene.lose()
    with pytest.raises(BackupError, match=r"backup-newer: .*ledger\.db has a newer schema"):
        from_backup(folder, scene.archive, scene.file, force=False, with_mirror=lambda *_: False)
    (folder / "manifest.json").write_text('{"format": "storage-ledger-backup 2", "parts": []}')
    with pytest.raises(BackupError, match=r"backup-newer: .*manifest\.json has a newer format"):
        backup.find(folder)
    assert list(scene.file.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["another", "empty", "none"])
def test_a_backup_whose_ledger_file_is_not_a_ledger_is_damaged(scene, content):
    scene.append(3)
    folder = scene.back_up()
    (folder / "ledger.db").write_bytes(b"no database" * 1000 if content == "none" else b"")
    remade(folder, "CREATE TABLE notes (text)" if content == "another" else "")
    scene.lose()
    with pytest.raises(BackupError, match="backup-damaged"):
        from_backup(folder, scene.archive, scene.file, force=False, with_mirror=lambda *_: False)
    assert list(scene.file.parent.iterdir()) == []


def test_a_backup_of_an_older_schema_is_migrated_when_it_is_restored(scene):
    scene.append(3)
    scene.ledger.close()
    connection = sqlite.connect(scene.file)
    connection.executescript(
        "DROP INDEX entries_of_upload; DROP INDEX entries_naming_study; UPDATE alembic_version SET version_num = '0001'"
    )
    connection.close()
    folder = scene.back_up()
    assert backup.find(folder)[1].revision == "0001"
    scene.lose()
    assert scene.restore().entries == 3
    assert [path.name for path in scene.file.parent.iterdir() if "before" in path.name] == []
    assert scene.ledger.of_upload("1.dcm")


def test_a_folder_without_a_backup_is_reported(scene, tmp_path):
    with pytest.raises(BackupError, match="backup-folder"):
        scene.restore(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupError, match="backup-missing"):
        scene.restore(tmp_path / "empty")


def test_newest_checkpoint_and_the_key_lie_in_the_backup_only_if_they_are_given(scene):
    scene.append(3)
    plain = scene.back_up()
    assert sorted(os.listdir(plain)) == ["ledger.db", "manifest.json"]
    scene.now += timedelta(seconds=1)
    folder, _ = backup.back_up(scene.file, scene.dest, now=scene.now, note=b"a note", key=b"a key")
    assert ((folder / "checkpoint").read_bytes(), (folder / "checkpoint.key").read_bytes()) == (b"a note", b"a key")
    assert stat.S_IMODE((folder / "checkpoint.key").stat().st_mode) == 0o400
    assert backup.find(scene.dest)[0] == folder


@pytest.mark.parametrize("there", [b"the present key", None])
def test_key_is_put_back_only_where_nothing_is(scene, there):
    scene.append(3)
    folder, _ = backup.back_up(scene.file, scene.dest, now=NOW, key=b"a key")
    path = scene.file.parent / "checkpoint.key"
    if there is None:
        assert backup.put_back_key(folder, path, dry_run=True)
        assert not path.exists()
        assert backup.put_back_key(folder, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
    else:
        path.write_bytes(there)
    assert not backup.put_back_key(folder, path)
    assert path.read_bytes() == (there or b"a key")
    assert not backup.put_back_key(scene.back_up(), scene.file.parent / "other.key"), "a backup without a key has none to put back"
