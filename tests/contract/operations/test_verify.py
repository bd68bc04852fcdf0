"""Verification beside a running service, what it records, how the index uses that, and the background scrub."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from storage_ledger.archive.fixity import FixityReader
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.payloads import ArchivedFileFields, ArchivedPayload, DescribedPayload, VerifiedPayload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.operations.verify import record_result as module
from storage_ledger.operations.verify.files import Files
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.report import VerifyReport
from storage_ledger.operations.verify.scrub import Scrub
from storage_ledger.operations.verify.selection import VerifyOptions, VerifyPaths
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader
from storage_ledger.operations.verify.verification import Verification
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.rate_limit import Pace
from storage_ledger.system.sqlite import sqlite
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline


class Scene:
    """A pipeline with a mirror and an index, verified by hand."""

    def __init__(self, folder: Path, ledgers: Ledgers) -> None:
        self.pipeline = Pipeline(folder, ledgers)
        self.ledger = self.pipeline.ledger
        self.clock = self.pipeline.clock
        self.serving = False
        self.mirror = Mirror(self.pipeline.archive, folder / "ledger" / "mirror.lock", self.ledger)
        self.mirror.begin()
        self.index = Index(folder / "ledger" / "index.db", self.ledger)
        self.index.ensure()
        self.places = VerifyPaths(self.ledger.path, self.index.path, self.pipeline.archive, lambda: self.serving)
        self.waits: list[float] = []
        self.stop = threading.Event()

    def archive(self, *names: str, study_id: str | None = None) -> None:
        for name in names:
            self.pipeline.upload(f"{name}.dcm", name.encode() * 100)
            self.pipeline.say(study_id or name, f"{name}.dcm")
        self.pipeline.finish()
        self.tell_all()
        self.follow()

    def tell_all(self) -> None:
        with self.ledger.write() as tx:
            for work_item in self.ledger.due([Stage.TELL], limit=1000):
                payload = {"status": "archived", "http_status": 200, "attempts": 1, "tells": [work_item.entry.position]}
                entry = tx.append(NewEntry(Kind.STATUS_SENT, payload, work_item.entry.study_id, work_item.entry.position))
                tx.drop(entry.position, Stage.CONFIRM)

    def follow(self) -> None:
        self.mirror.catch_up()
        while self.index.follow():
            pass

    def record(self, payload: VerifiedPayload) -> int:
        with self.ledger.write() as tx:
            position = tx.append(payload.entry()).position
        self.follow()
        return position

    def verify(self, *, record: bool = True, chance=lambda: 0.0, on_progress=lambda _: None, **options: object) -> VerifyReport:
        return Verification(
            self.places,
            VerifyOptions(**{"settle_s": 0.0, **options}),
            clock=self.clock,
            stopped=self.stop.is_set,
            wait=self.waits.append,
            append=self.record if record else None,
            on_progress=on_progress,
            chance=chance,
        ).run()

    def fixity(self) -> dict[str, tuple[str, bool]]:
        with closing(sqlite.connect(self.index.path)) as connection:
            return {row[0]: (row[1], row[2] is not None) for row in connection.execute("SELECT name, fixity, verified_at FROM files")}

    def rows(self, path: Path) -> list[tuple]:
        with closing(sqlite.connect(path)) as connection:
            return sorted(connection.execute("SELECT * FROM files"))

    def path(self, name: str) -> Path:
        return self.pipeline.archive / name / f"{name}.dcm"

    def verified(self) -> list[dict]:
        return [entry.data for entry in self.ledger.of_no_study((Kind.VERIFIED.value,), 100)]

    def scrub(self, rate: float = 1e12) -> Scrub:
        self.metrics = Metrics()
        return Scrub(
            self.ledger, self.places, rate=rate, metrics=self.metrics, clock=self.clock, index_position=lambda: self.index.position
        )


@pytest.fixture
def scene(tmp_path, ledgers):
    made = Scene(tmp_path, ledgers)
    yield made
    made.index.close()
    made.ledger.close()


def codes(report: VerifyReport) -> list[tuple[str, str | None]]:
    return [(each.code, each.path) for each in report.found.damaged]


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o640)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


# -- what is recorded, and what the index makes of it


def test_a_verification_is_an_entry_and_the_index_says_which_files_are_intact(scene):
    scene.archive("a", "b", "c")
    damage(scene.path("b"))
    scene.path("c").unlink()
    report = scene.verify()
    assert codes(report) == [("file-changed", "b/b.dcm"), ("file-missing", "c/c.dcm")]
    [entry] = scene.verified()
    assert report.recorded == [scene.ledger.last().position]
    assert entry["counts"] == {"files": 3, "intact": 1, "damaged": 2, "unchecked": 0, "bytes": 100, "findings": 2}
    assert entry["complete"] is True
    assert [(f["code"], f["study_id"], f["path"]) for f in entry["findings"]] == [
        ("file-changed", "b", "b/b.dcm"),
        ("file-missing", "c", "c/c.dcm"),
    ]
    assert scene.fixity() == {"a.dcm": ("intact", True), "b.dcm": ("changed", True), "c.dcm": ("missing", True)}


def test_a_damaged_file_replaced_by_a_redelivery_is_unverified_until_it_is_reread(scene):
    scene.archive("a")
    damage(scene.path("a"))
    scene.verify()
    assert scene.fixity() == {"a.dcm": ("changed", True)}
    scene.archive("a")
    assert scene.fixity() == {"a.dcm": ("unverified", False)}
    assert codes(scene.verify()) == []
    assert scene.fixity() == {"a.dcm": ("intact", True)}


def test_a_rebuilt_index_has_the_same_fixity_for_every_file(scene, tmp_path):
    for round_, names in enumerate([("a", "b"), ("c", "d"), ("e",)]):
        scene.archive(*names)
        if round_:
            damage(scene.path(names[0]))
        scene.clock.move(60)
        scene.verify(**({"study_id": "a"} if round_ == 2 else {}))
    scene.archive("c")  # replaced
    anew = Index(tmp_path / "anew.db", scene.ledger)
    anew.rebuild()
    assert scene.rows(anew.path) == scene.rows(scene.index.path)
    anew.close()
    assert {fixity for fixity, _ in scene.fixity().values()} == {"intact", "unverified"}


def test_a_long_run_is_recorded_in_portions_that_survive_an_interruption(scene, monkeypatch):
    monkeypatch.setattr(module, "PORTION_FILES", 2)
    scene.archive("a", "b", "c", "d", "e")
    seen = 0

    def stop_at_the_fourth(progress) -> None:
        nonlocal seen
        if progress.part == "files" and progress.done == 3:
            scene.stop.set()
        seen = max(seen, progress.done)

    report = scene.verify(on_progress=stop_at_the_fourth)
    assert report.interrupted
    assert [entry["complete"] for entry in scene.verified()] == [False, False]
    assert sorted(name for name, (fixity, _) in scene.fixity().items() if fixity == "intact") == ["a.dcm", "b.dcm", "c.dcm"]
    scene.stop.clear()
    report = scene.verify(older_than=scene.clock().isoformat())
    assert report.counts.files == 2
    assert {fixity for fixity, _ in scene.fixity().values()} == {"intact"}
    assert scene.verified()[0]["complete"] is True


def test_a_verification_stopped_during_the_ledger_part_appends_no_empty_entry(scene):
    scene.archive("a")
    scene.stop.set()
    report = scene.verify()
    assert (report.interrupted, report.recorded, report.parts) == (True, [], [])


def test_a_sample_is_exactly_as_large_as_asked_for(scene):
    scene.archive("a", "b", "c", "d")
    chances = iter([0.9, 0.1, 0.9, 0.0])
    report = scene.verify(sample=2, chance=lambda: next(chances))
    assert report.counts.files == 2
    intact = [name for name, (fixity, _) in scene.fixity().items() if fixity == "intact"]
    assert intact == ["b.dcm", "d.dcm"]
    assert scene.verify(sample=0.25).counts.files == 1


def test_a_single_study_is_verified(scene):
    scene.archive("a", "b")
    damage(scene.path("a"))
    (scene.pipeline.archive / "b" / "stranger").write_bytes(b"")
    assert codes(scene.verify(study_id="b")) == [("untracked-file", "b/stranger")]
    assert scene.fixity() == {"a.dcm": ("unverified", False), "b.dcm": ("intact", True)}
    assert codes(scene.verify(study_id="a")) == [("file-changed", "a/a.dcm")]


def test_nothing_is_appended_to_a_ledger_that_is_damaged(scene):
    scene.archive("a")
    with closing(sqlite.connect(scene.ledger.path)) as connection:
        connection.execute("DROP TRIGGER entries_update")
        connection.execute("UPDATE entries SET kind = 'archivee' WHERE position = 2")
        connection.commit()
    report = scene.verify()
    assert {each.code for each in report.found.damaged} == {"schema-changed", "header-changed"}
    assert (report.recorded, report.not_recorded is not None) == ([], True)
    assert scene.verified() == []


def test_what_cannot_be_read_is_neither_intact_nor_damaged(scene, monkeypatch):
    scene.archive("a", "b")
    read = FixityReader.read

    def fails(self, study_id, name, *more):
        if name == "a.dcm":
            raise OSError(5, "Input/output error")
        return read(self, study_id, name, *more)

    monkeypatch.setattr(FixityReader, "read", fails)
    report = scene.verify()
    assert codes(report) == []
    assert [(each.code, each.path) for each in report.found.unchecked] == [("archive-io", "a/a.dcm")]
    assert scene.fixity() == {"a.dcm": ("unverified", False), "b.dcm": ("intact", True)}


def test_an_unmounted_archive_is_not_mistaken_for_missing_files(scene):
    scene.archive("a")
    scene.pipeline.archive.rename(scene.pipeline.archive.with_name("elsewhere"))
    report = scene.verify(record=False)
    assert codes(report) == []
    assert {each.code for each in report.found.unchecked} == {"archive-missing"}
    scene.pipeline.archive.mkdir()
    report = scene.verify(record=False)
    assert codes(report) == [("mirror-missing", ".ledger")]
    assert {each.code for each in report.found.unchecked} == {"archive-missing"}


# -- beside a service that works


def test_a_file_placed_but_not_yet_recorded_is_not_a_finding(scene):
    scene.archive("a")
    scene.pipeline.upload("b.dcm", b"b")
    scene.pipeline.say("b", "b.dcm")
    scene.pipeline.upload("a2.dcm", b"a2")
    scene.pipeline.say("a", "a2.dcm")
    scene.mirror.catch_up()
    for group in scene.pipeline.due(Stage.PLACE):
        scene.pipeline.placer.place_batch(group)  # killed here
    for name in (".place-9.tmp", ".place-9-a1-2.tmp", ".metadata-a1-3.tmp", ".renew-a1-4.tmp"):
        (scene.pipeline.archive / "b" / name).write_bytes(b"half")
    report = scene.verify(record=False)
    assert codes(report) == []


def test_a_lagging_mirror_is_reported_unless_it_catches_up(scene):
    scene.archive("a")
    scene.pipeline.say("b", "b.dcm")
    report = scene.verify(record=False)
    assert [(each.code, each.position) for each in report.found.damaged] == [("mirror-lags", scene.ledger.last().position)]
    scene.serving = True
    scene.waits = Catching(scene.mirror)
    assert codes(scene.verify(record=False, settle_s=5.0)) == []
    assert scene.waits.calls == [0.5]


class Catching:
    """`append` is the verification's wait: meanwhile the service mirrors."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.calls: list[float] = []

    def append(self, seconds: float) -> None:
        self.calls.append(seconds)
        self.mirror.catch_up()


def test_reading_respects_the_rate_limit():
    waits: list[float] = []
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    pace = Pace(1e6, burst_s=1.0, wait=wait, monotonic=lambda: now)
    for _ in range(30):
        pace.spend(500_000)
    assert sum(waits) == pytest.approx(14, abs=1.1)
    now += 100.0
    waits.clear()
    pace.spend(500_000)
    assert waits == []  # but idle time is not caught up
    for _ in range(10):
        pace.spend(500_000)
    assert sum(waits) > 4


def test_a_study_whose_files_are_far_apart_is_folded_once(scene):
    """Otherwise a study of n files, archived alongside others, costs n passes over n entries."""
    folds = []

    class Counting(UntrustingReader):
        def study(self, study_id):
            folds.append(study_id)
            return super().study(study_id)

    studies = [f"S{number}" for number in range(100)]
    with scene.ledger.write() as tx:
        for name in ("1.dcm", "2.dcm", "1.dcm"):
            for study_id in studies:
                message = {"study_id": study_id, "file_path": name, "metadata": {}}
                described = tx.append(DescribedPayload(message, "pubsub", "0" * 64, name).entry(study_id), work_item=False)
                file = ArchivedFileFields(name, name, 1, "0" * 64)
                archived = ArchivedPayload(file, "copied", "0" * 64, None, name, "test", "here")
                tx.append(archived.entry(study_id, described=described.position), work_item=False)
    with closing(Counting(scene.ledger.path)) as reader:
        files = Files(reader, FixityReader(scene.pipeline.archive, lambda _: None), Findings(), wait=scene.stop.wait, settle_s=0)
        entries, _ = reader.archived(0, reader.last(), 1000)
        facts = [files.fact(entry) for entry in entries]
    assert [fact.name for fact in facts[:200]] == ["1.dcm"] * 100 + ["2.dcm"] * 100
    assert facts[200:] == [None] * 100, "only the first entry of a name is its file"
    assert sorted(folds) == sorted(studies)


# -- the scrub


def test_the_scrub_reads_the_longest_unverified_files_first_and_each_once_a_day(scene):
    scene.archive("a", "b", "c")
    scene.verify(study_id="a")
    scrub = scene.scrub()
    scene.clock.move(3600)
    assert scrub.portion(scene.stop) == 0.0
    scene.follow()
    [entry, _] = scene.verified()
    assert (entry["by"], entry["counts"]["files"], entry["complete"]) == ("scrub", 2, False)
    assert scrub.portion(scene.stop) > 0
    scene.clock.move(86_400 - 3599)
    assert scrub.portion(scene.stop) == 0.0
    scene.follow()
    entry = scene.verified()[0]
    assert (entry["counts"]["files"], entry["complete"]) == (1, True)
    assert scene.metrics.render().decode().count('storage_ledger_scrub_files_total{outcome="intact"} 3.0') == 1
    assert scrub.portion(scene.stop) > 0
    again = scene.scrub()
    scene.clock.move(86_401)
    for _ in range(2):  # b and c, then a: always from the oldest on
        assert again.portion(scene.stop) == 0.0
        scene.follow()
    assert [(entry["counts"]["files"], entry["complete"]) for entry in scene.verified()[:2]] == [(1, True), (2, False)]


def test_the_scrub_reports_damage_and_repairs_nothing(scene, log):
    scene.archive("a", "b")
    damage(scene.path("a"))
    before = scene.path("a").read_bytes()
    scene.scrub().portion(scene.stop)
    scene.follow()
    assert scene.fixity() == {"a.dcm": ("changed", True), "b.dcm": ("intact", True)}
    assert scene.path("a").read_bytes() == before
    assert 'storage_ledger_scrub_findings_total{code="file-changed"} 1.0' in scene.metrics.render().decode()
    assert "scrub.damaged" in log.getvalue()


def test_a_file_that_cannot_be_read_does_not_keep_the_scrub_busy(scene, monkeypatch):
    scene.archive("a", "b")
    read = FixityReader.read

    def fails(self, study_id, name, *more):
        if name == "a.dcm":
            raise PermissionError(13, "Permission denied")
        return read(self, study_id, name, *more)

    monkeypatch.setattr(FixityReader, "read", fails)
    scrub = scene.scrub()
    for _ in range(5):
        scrub.portion(scene.stop)
        scene.follow()
    assert len(scene.verified()) == 1
    assert scene.fixity() == {"a.dcm": ("unverified", False), "b.dcm": ("intact", True)}


def test_the_scrub_stops_in_the_middle_of_a_file(scene):
    scene.archive("a")
    scrub = scene.scrub(rate=1.0)
    running = threading.Thread(target=scrub.run, args=(scene.stop,))
    scene.stop.set()
    running.start()
    running.join(10)
    assert not running.is_alive()
    assert scene.verified() == []


def test_without_a_rate_the_scrub_only_waits(scene):
    scene.archive("a")
    scrub = scene.scrub(rate=0.0)
    scene.stop.set()
    scrub.run(scene.stop)
    assert scene.verified() == []


def test_no_link_is_followed_and_no_fifo_opened(scene, tmp_path):
    scene.archive("a", "b")
    for name, make in (("a", os.mkfifo), ("b", lambda path: path.symlink_to(tmp_path))):
        path = scene.path(name)
        path.unlink()
        make(path)
    assert codes(scene.verify()) == [("file-replaced", "a/a.dcm"), ("file-replaced", "b/b.dcm")]
