"""The last complete verification, how much of the archive was read lately, and the last backup: in `status`, on the page, as a metric."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.report.status import current_status
from storage_ledger.operations.report.verifications import Coverage, last_complete
from storage_ledger.operations.restore import from_backup, from_mirror
from storage_ledger.settings import Settings
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages import home
from storage_ledger.wiring.backup import back_up
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline


class Archive:
    """An archive of `count` files, archived and indexed; `verified` appends the entry of a verification."""

    def __init__(self, folder: Path, count: int) -> None:
        self.pipeline = Pipeline(folder, Ledgers(folder), grace_s=0)
        self.ledger = self.pipeline.ledger
        self.mirror = Mirror(self.pipeline.archive, self.ledger.path.parent / "mirror.lock", self.ledger)
        self.mirror.begin()
        for number in range(count):
            self.pipeline.upload(f"S{number}.dcm", b"x" * 100)
            self.pipeline.say(f"S{number}", f"S{number}.dcm")
        self.pipeline.finish()
        self.settings = Settings(
            uploads_path=self.pipeline.uploads, archive_path=self.pipeline.archive, ledger_path=self.ledger.path.parent
        )
        self.files = [each.position for each in self.ledger.scan(0, 10_000) if each.kind == Kind.ARCHIVED]
        self.follow()

    def follow(self) -> None:
        self.mirror.catch_up()
        with closing(Index(self.settings.index_file, self.ledger)) as index:
            index.ensure()
            while index.follow():
                pass

    def verified(
        self, *positions: int, by: str = "verify", began: str = "2026-01-01T12:00:00.000000Z", selection: str, complete: bool
    ) -> None:
        last = self.ledger.last()
        assert last
        counts = {"files": len(positions), "intact": len(positions), "damaged": 0, "unchecked": 0, "bytes": 7, "findings": 0}
        ranges = [[each, each] for each in positions]
        scope = {"parts": ["files"], "selection": selection, "up_to": last.position, "ranges": ranges}
        payload = {"by": by, "began": began, "scope": scope, "counts": counts, "findings": [], "unchecked": [], "complete": complete}
        with self.ledger.write() as tx:
            tx.append(NewEntry(Kind.VERIFIED, {**payload, "software": "0"}))
        self.follow()

    def home(self) -> dict[str, Any]:
        with closing(sqlite.connect(self.ledger.path)) as book, closing(sqlite.connect(self.settings.index_file)) as index:
            return {**home.of_index(index, datetime.now(UTC).date()), **home.of_ledger(book)}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "run", 6)


def test_a_run_about_one_study_does_not_hide_the_last_complete_one(archive: Archive):
    assert archive.home()["complete"] is None
    archive.verified(*archive.files[:4], selection="all", complete=False)
    assert archive.home()["complete"] is None
    archive.verified(*archive.files[4:], selection="all", complete=True)
    whole = archive.home()["complete"]
    assert (whole.files, whole.by) == (6, "verify"), "both entries of the run"
    for began, selection in (("2", "study"), ("3", "sample"), ("4", "older-than")):
        archive.verified(archive.files[0], began=began, selection=selection, complete=True)
    archive.verified(archive.files[0], began="5", selection="all", complete=False)
    report = current_status(archive.ledger, archive.settings)
    assert archive.home()["complete"] == report.last_complete_verify == whole
    assert (archive.home()["verified"].files, report.last_verify.files if report.last_verify else 0) == (1, 1)
    archive.verified(archive.files[0], by="scrub", began="6", selection="oldest", complete=True)
    assert archive.home()["complete"].by == "scrub"


def test_entries_of_a_run_are_found_between_those_of_another(archive: Archive):
    archive.verified(*archive.files[:2], selection="all", complete=False, began="1")
    archive.verified(archive.files[3], by="scrub", selection="oldest", complete=False, began="2")
    archive.verified(*archive.files[2:], selection="all", complete=True, began="1")
    found = last_complete(archive.ledger.of_no_study((Kind.VERIFIED.value,), 10))
    assert (found.files if found else 0) == 6


def test_the_coverage_says_how_many_files_were_read_and_when_the_oldest_was(archive: Archive):
    assert archive.home()["coverage"] == Coverage(6, 0, 6, None)
    archive.pipeline.clock.now = datetime.now(UTC) - timedelta(days=40)
    archive.verified(*archive.files[:3], selection="sample", complete=True)
    archive.pipeline.clock.now = datetime.now(UTC)
    archive.verified(*archive.files[2:5], selection="sample", complete=True)
    times = [each.recorded_at for each in archive.ledger.of_no_study((Kind.VERIFIED.value,), 10)]
    wanted = Coverage(files=6, recent=3, never=1, oldest=times[-1])
    assert archive.home()["coverage"] == current_status(archive.ledger, archive.settings).coverage == wanted


def test_a_backup_is_known_to_status_and_page(archive: Archive, tmp_path: Path):
    assert (archive.home()["backup"], current_status(archive.ledger, archive.settings).last_backup) == (None, None)
    _, manifest, not_noted = back_up(archive.settings, tmp_path / "backups", lambda *_: None)
    made = LastBackup(manifest.position, manifest.created)
    assert not_noted is None
    assert archive.home()["backup"] == current_status(archive.ledger, archive.settings).last_backup == made
    assert archive.ledger.last().position == manifest.position, "the backup is still up to date: noting it appended nothing"  # type: ignore[union-attr]


def test_a_restored_ledger_knows_the_backup_it_comes_from_and_one_made_from_the_mirror_knows_none(archive: Archive, tmp_path: Path):
    folder, manifest, _ = back_up(archive.settings, tmp_path / "backups", lambda *_: None)
    elsewhere = tmp_path / "new" / "ledger.db"
    from_backup(folder, archive.settings.archive_path, elsewhere, force=False, with_mirror=lambda *_: True)
    with closing(SqliteLedger(elsewhere)) as restored:
        assert restored.last_backup() == LastBackup(manifest.position, manifest.created)
    mirrored = tmp_path / "mirrored" / "ledger.db"
    from_mirror(archive.settings.archive_path, mirrored)
    with closing(SqliteLedger(mirrored)) as restored:
        assert restored.last_backup() is None


def test_a_backup_that_cannot_be_noted_is_complete_and_says_so(archive: Archive, tmp_path: Path):
    with closing(sqlite.connect(archive.ledger.path)) as connection:
        connection.execute("CREATE TRIGGER no_notes BEFORE INSERT ON meta BEGIN SELECT raise(ABORT, 'no'); END")
    _, manifest, not_noted = back_up(archive.settings, tmp_path / "backups", lambda *_: None)
    assert (not_noted.code if not_noted else None) == "ledger-refused"
    assert archive.ledger.last_backup() is None
    assert manifest.position == archive.ledger.last().position  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["", "never", "2026-01-01T12:00:00Z", "2026-01-01T12:00:00Z x", "yesterday 7", 7, b"\xff"])
def test_a_note_that_is_none_of_ours_is_no_backup(value: object):
    assert LastBackup.of(value) is None


def test_a_note_is_read_as_it_was_written():
    made = LastBackup(7, rfc3339(datetime(2026, 1, 1, tzinfo=UTC)))
    assert LastBackup.of(made.stored()) == made
