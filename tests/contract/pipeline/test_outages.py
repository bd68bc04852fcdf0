"""Outages: a cause that hits many studies, comes and goes, or stays is reported once, and blocks nothing else."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import pytest

from storage_ledger.domain.backoff import calm_s
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerUnusable, Retryable
from storage_ledger.operations.report.timeline import timeline_of
from storage_ledger.pipeline.failures import READY_AFTER_S, Outages, record_hanging
from storage_ledger.pipeline.place import placer as place
from storage_ledger.pipeline.place.recorder import COMMON_AFTER
from storage_ledger.pipeline.worker_pool import Report, WorkerPool
from storage_ledger.pipeline.worker_threads import MOST_HANGING, beat, turn_to
from storage_ledger.settings import Settings
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sqlite import sqlite
from tests.support.making import Clock, described, made_entry, small_volume
from tests.support.pipeline import Pipeline
from tests.support.waiting import until

DAY_S = 86_400


@pytest.fixture
def pipeline(tmp_path, ledgers):
    return Pipeline(tmp_path / "run", ledgers)


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def ledger(ledgers, tmp_path):
    return ledgers.open(tmp_path / "ledger", Clock())


def wait(ledger) -> int:
    """Let one file wait to be placed; return its position."""
    with ledger.write() as tx:
        return tx.append(NewEntry(Kind.DESCRIBED, described("S1.dcm"), study_id="S1")).position


def begin(outages, ledger, code="archive-full"):
    with ledger.write() as tx:
        outages.begin(tx, "place", Retryable(code, "", errno=28), attempt=1, retry_at="")


def end(outages, ledger):
    with ledger.write() as tx:
        outages.end(tx, "place")


def kinds(ledger):
    return [entry.kind for entry in ledger.read(0, 10_000)]


# -- what an earlier process left


def test_an_outage_is_known_again_after_a_restart_however_much_came_after_it(ledger, time):
    wait(ledger)
    begin(Outages(ledger, Metrics(), time), ledger)
    for _ in range(100):
        with ledger.write() as tx:
            begun = tx.append(NewEntry(Kind.FAILED, {"step": "tell", "code": "status-service-away"}))
            tx.append(NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"}, cause=begun.position))
    outages = Outages(ledger, Metrics(), time)
    assert outages.current() == [("place", "archive-full")]
    end(outages, ledger)
    assert outages.current() == []
    assert Outages(ledger, Metrics(), time).current() == []


def test_one_that_was_forgotten_once_and_began_again_ends_as_a_whole(ledger, time):
    for _ in range(3):
        with ledger.write() as tx:
            tx.append(NewEntry(Kind.FAILED, {"step": "place", "code": "archive-full"}))
    end(Outages(ledger, Metrics(), time), ledger)
    assert ledger.open_outages() == []
    assert [entry.cause for entry in ledger.read(3, 10)] == [1, 2, 3]


@pytest.mark.parametrize("payload", [{}, {"step": None, "code": 7}, {"step": ["place"], "code": {}}])
def test_an_entry_that_says_nothing_of_use_keeps_nobody_from_starting(ledger, time, payload):
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.FAILED, payload))
    outages = Outages(ledger, Metrics(), time)
    assert len(outages.current()) == 1
    outages.look()


@pytest.mark.parametrize("payload", [[], "text", None, 7])
def test_an_entry_that_holds_no_object_keeps_nobody_from_starting(ledger, time, payload):
    with closing(sqlite.connect(ledger.path)) as connection:
        entry = made_entry(1, "failed", payload, study_id=None)
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", entry)
        connection.commit()
    assert Outages(ledger, Metrics(), time).current() == []


# -- what comes and goes


def test_an_outage_that_ends_is_over_at_once(ledger, time):
    outages = Outages(ledger, Metrics(), time)
    begin(outages, ledger)
    assert outages.current() == [("place", "archive-full")]
    end(outages, ledger)
    assert kinds(ledger) == ["failed", "recovered"]
    assert outages.current() == []


def test_one_that_came_back_counts_as_ended_when_it_has_been_gone_for_longer(ledger, time):
    outages = Outages(ledger, Metrics(), time)
    for _ in range(2):
        begin(outages, ledger)
        end(outages, ledger)
    assert kinds(ledger) == ["failed", "recovered", "failed"]
    time.now_s += calm_s(1) - 1
    outages.look()
    assert kinds(ledger)[3:] == []
    time.now_s += 1
    outages.look()
    assert kinds(ledger)[3:] == ["recovered"]
    assert outages.current() == []


def test_one_that_is_met_again_meanwhile_has_not_ended(ledger, time):
    wait(ledger)
    outages = Outages(ledger, Metrics(), time)
    for _ in range(3):
        begin(outages, ledger)
        end(outages, ledger)
    begin(outages, ledger)
    time.now_s += DAY_S
    outages.look()
    assert kinds(ledger) == ["described", "failed", "recovered", "failed"]
    assert outages.current() == [("place", "archive-full")]


def test_one_for_which_nothing_waits_any_more_is_over(ledger, time):
    position = wait(ledger)
    outages = Outages(ledger, Metrics(), time)
    begin(outages, ledger)
    outages.look()
    assert outages.current() == [("place", "archive-full")]
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.QUARANTINED, {"code": "upload-missing", "upload_path": "S1.dcm"}, study_id="S1", cause=position))
    outages.look()
    assert outages.current() == []
    assert [kind for kind in kinds(ledger) if kind in {"failed", "recovered"}] == ["failed", "recovered"]


def test_one_that_was_over_before_a_restart_does_not_go_on_after_it(ledger, time):
    before = Outages(ledger, Metrics(), time)
    for _ in range(2):
        begin(before, ledger)
        end(before, ledger)
    assert kinds(ledger)[-1] == "failed", "it was not gone for long enough"
    after = Outages(ledger, Metrics(), time)
    after.look()
    assert after.current() == []
    assert kinds(ledger)[-1] == "recovered"


def test_what_works_for_a_while_is_ready_before_it_is_recorded_as_over(ledger, time):
    outages = Outages(ledger, Metrics(), time)
    for _ in range(2):
        begin(outages, ledger)
        end(outages, ledger)
        time.now_s += calm_s(1)
        outages.look()
    begin(outages, ledger)
    end(outages, ledger)
    assert outages.current() == [("place", "archive-full")]
    time.now_s += READY_AFTER_S
    outages.look()
    assert outages.current() == []
    assert kinds(ledger)[-1] == "failed"


@pytest.mark.parametrize("every_s", [60, 300])
def test_a_day_of_coming_and_going_leaves_a_handful_of_entries(ledger, time, every_s):
    outages = Outages(ledger, Metrics(), time)
    for _ in range(DAY_S // every_s):
        begin(outages, ledger)
        end(outages, ledger)
        time.now_s += every_s
        outages.look()
    assert len(kinds(ledger)) < 16


def test_a_restart_knows_what_goes_on_and_ends_it(ledger, time):
    begin(Outages(ledger, Metrics(), time), ledger)
    outages = Outages(ledger, Metrics(), time)
    assert outages.goes_on("place")
    end(outages, ledger)
    assert kinds(ledger) == ["failed", "recovered"]
    assert Outages(ledger, Metrics(), time).current() == []


# -- what many fail with


def broken(pipeline, *studies):
    """Make metadata.json unwritable: a folder blocks the name of its temporary file."""
    for study_id in studies:
        (pipeline.archive / study_id / ".metadata.json.tmp" / "x").mkdir(parents=True)


def mend(pipeline, *studies):
    for study_id in studies:
        (pipeline.archive / study_id / ".metadata.json.tmp" / "x").rmdir()
        (pipeline.archive / study_id / ".metadata.json.tmp").rmdir()


def describe(pipeline, *studies):
    for study_id in studies:
        pipeline.upload(f"{study_id}.dcm", study_id.encode())
        pipeline.say(study_id, f"{study_id}.dcm")


def failed(pipeline):
    return [(entry.study_id, entry.data["code"]) for entry in pipeline.ledger.read(0, 10_000) if entry.kind == "failed"]


def test_what_one_study_after_the_other_fails_with_is_said_once(pipeline):
    many = [f"S{n}" for n in range(40)]
    broken(pipeline, *many)
    describe(pipeline, *many)
    for _ in range(len(many)):  # like the pool: one after another
        pipeline.place(studies=1)
    each = [(study_id, "archive-error") for study_id in many[: COMMON_AFTER - 1]]
    assert failed(pipeline) == [*each, (None, "archive-error")]
    mend(pipeline, *many)
    pipeline.finish()
    assert pipeline.kinds().count("recovered") == 1
    assert len(pipeline.files()) == len(many)


def test_a_few_bad_ones_hold_up_nobody_else(pipeline):
    bad = [f"B{n}" for n in range(COMMON_AFTER + 2)]
    broken(pipeline, *bad)
    describe(pipeline, *bad, "good")
    for _ in range(len(bad) + 1):
        pipeline.place(studies=1)
    assert "good/good.dcm" in pipeline.files()
    assert pipeline.kinds().count("archived") == 1


def test_a_file_that_does_not_fit_into_a_nearly_full_archive_holds_up_no_smaller_one(pipeline):
    pipeline.archive.rmdir()
    with small_volume(pipeline.archive, "1m"):
        pipeline.upload("large.dcm", bytes(2 << 20))
        pipeline.say("large", "large.dcm")
        pipeline.place()
        describe(pipeline, "small")
        for _ in range(2):  # like the pool in an outage: one after another
            pipeline.clock.move(1)
            pipeline.place(studies=1)
        assert "small/small.dcm" in pipeline.files()
        assert failed(pipeline) == [(None, "archive-full")]


def test_what_fails_here_and_there_is_said_of_each(pipeline):
    bad = [f"B{n}" for n in range(COMMON_AFTER + 2)]
    broken(pipeline, *bad)
    for n, study_id in enumerate(bad):
        describe(pipeline, study_id, f"good{n}")
        pipeline.place()
    assert {study_id for study_id, _ in failed(pipeline)} == set(bad)


def test_the_story_of_a_study_says_what_holds_it_up(pipeline):
    settings = Settings(uploads_path=pipeline.uploads, archive_path=pipeline.archive, ledger_path=pipeline.ledger.path.parent)
    describe(pipeline, "S1")
    away = pipeline.archive.with_name("away")
    pipeline.archive.rename(away)
    pipeline.place()
    [step] = timeline_of(pipeline.ledger, settings, "S1").next
    assert [(cause.code, "Mount" in cause.action) for cause in step.held_up_by] == [("archive-missing", True)]
    away.rename(pipeline.archive)
    pipeline.finish()
    assert timeline_of(pipeline.ledger, settings, "S1").state == "archived"
    assert all(step.held_up_by == [] for step in timeline_of(pipeline.ledger, settings, "S1").next)


# -- what never comes back


class Hung:
    """A worker pool on a real ledger; the work on some studies hangs until it is released."""

    def __init__(self, ledger, workers=2, studies=1):
        self.ledger = ledger
        self.free = threading.Event()
        self.stop = threading.Event()
        self.wakeup = threading.Event()
        self.done = []
        self.groups = []
        self.died = []
        metrics = Metrics()
        self.pool = WorkerPool(
            replace(place.POLICY, workers=workers, studies=studies, hangs_after_s=0.5), ledger, work=self.work, record=self.record,
            outages=Outages(ledger, metrics), metrics=metrics, clock=utc_now, wakeup=self.wakeup,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            self.pool.run(self.stop)
        except LedgerUnusable as error:
            self.died.append(error.code)

    def work(self, work_items):
        self.groups.append(len(work_items))
        for study_id in [work_item.entry.study_id for work_item in work_items]:
            turn_to(study_id)
            if study_id.startswith("hangs"):
                self.free.wait()
            if study_id.startswith("slow"):
                for _ in range(60):
                    beat()
                    self.free.wait(0.02)
            if study_id.startswith("fatal"):
                raise LedgerUnusable("ledger-damaged", "")
        turn_to(None)
        return work_items

    def record(self, tx, outcomes, _fresh):
        for work_item in (work_item for work_items in outcomes for work_item in work_items):
            self.done.append(work_item.entry.study_id)
            tx.drop(work_item.entry.position, Stage.PLACE)
        return Report([], True, lambda: None)

    @property
    def hanging(self):
        """Return the studies whose work is recorded as hanging."""
        entries = [entry for entry in self.ledger.read(0, 10_000) if entry.kind == Kind.FAILED]
        assert {entry.data["code"] for entry in entries} <= {"hangs"}
        return [entry.study_id for entry in entries]

    def describe(self, *studies):
        with self.ledger.write() as tx:
            for study_id in studies:
                tx.append(NewEntry(Kind.DESCRIBED, {"upload_path": study_id, "raw_sha256": study_id, "message": {}}, study_id))
        self.wakeup.set()

    def end(self):
        self.stop.set()
        self.wakeup.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(params=[1, 32], ids=["a study at a time", "many studies at a time"])
def hung(request, ledgers, tmp_path):
    made = Hung(ledgers.open(tmp_path / "lane"), workers=8, studies=request.param)
    yield made
    made.free.set()
    made.stop.set()


def test_more_hanging_files_than_workers_stop_nobody_else(hung):
    stuck = sorted(f"hangs{n}" for n in range(12))
    hung.describe(*stuck, *(f"S{n}" for n in range(30)))
    hung.thread.start()
    until(lambda: len(hung.done) == 30, 30)
    until(lambda: sorted(hung.hanging) == stuck, 30)
    assert hung.pool.hanging == len(stuck)
    hung.free.set()
    until(lambda: len(hung.done) == 42, 30)
    until(lambda: hung.pool.hanging == 0, 30)
    assert len(hung.hanging) == len(stuck)  # reported once
    hung.end()


def test_when_one_study_hangs_the_others_of_its_group_are_done_by_another_thread(hung):
    hung.describe("S0", "hangs", *(f"S{n}" for n in range(1, 8)))
    hung.thread.start()
    until(lambda: len(hung.done) == 8 and hung.hanging == ["hangs"], 30)
    hung.free.set()
    until(lambda: sorted(hung.done) == sorted(["hangs", *(f"S{n}" for n in range(8))]), 30)
    until(lambda: hung.pool.hanging == 0, 30)
    assert max(hung.groups) == (1 if hung.pool.policy.studies == 1 else 9)
    hung.end()


def test_a_stop_does_not_wait_for_what_hangs(hung):
    hung.describe("hangs", "S1")
    hung.thread.start()
    until(lambda: hung.done == ["S1"] and hung.pool.hanging == 1, 30)
    hung.end()
    assert hung.done == ["S1"]


def test_what_is_slow_but_goes_on_does_not_hang(hung):
    hung.describe("slow")
    hung.thread.start()
    until(lambda: hung.done == ["slow"], 30)
    assert hung.hanging == []
    hung.end()


def test_so_many_threads_are_given_up_on_and_no_more(hung):
    hung.describe(*(f"hangs{n}" for n in range(MOST_HANGING + 8)))
    hung.thread.start()
    until(lambda: hung.pool.hanging == MOST_HANGING, 30)
    hung.free.set()
    until(lambda: len(hung.done) == MOST_HANGING + 8, 30)
    hung.end()


def test_what_ends_a_worker_ends_the_lane(hung):
    hung.describe("fatal")
    hung.thread.start()
    hung.thread.join(30)
    assert hung.died == ["ledger-damaged"]


def test_a_hanging_file_is_recorded_and_shown(pipeline):
    describe(pipeline, "S1")
    [work_items] = pipeline.due(Stage.PLACE)
    record_hanging(pipeline.ledger, "place", work_items)
    [entry] = [entry for entry in pipeline.ledger.read(0, 10) if entry.kind == "failed"]
    assert (entry.data["step"], entry.data["code"], entry.data["retry_at"], entry.study_id) == ("place", "hangs", None, "S1")
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/S1.dcm"]
