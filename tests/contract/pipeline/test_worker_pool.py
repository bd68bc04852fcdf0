"""A worker pool on a real ledger: who gets a turn, and what happens when work raises any exception."""

from __future__ import annotations

import builtins
import json
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import BackupError, LedgerUnusable, Permanent, Rejected, Retryable
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.place import placer as place
from storage_ledger.pipeline.worker_pool import Report, WorkerPool
from storage_ledger.pipeline.worker_threads import hand_back
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sqlite import sqlite
from tests.support.making import described, made_entry
from tests.support.waiting import until


class Turns:
    """A worker pool that records whose turn it is; `breaks` raises in `work`, `spoils` in `record`."""

    def __init__(self, ledger, *, workers=3, studies=1, together=True, breaks=None, spoils=None):
        self.ledger = ledger
        self.breaks = breaks or {}
        self.spoils = spoils or {}
        self.turns = []
        self.recorded = []
        self.died = []
        self.stop = threading.Event()
        self.wakeup = threading.Event()
        self.metrics = Metrics()
        self.pool = WorkerPool(
            replace(place.POLICY, workers=workers, studies=studies, room=None), ledger, work=self.work, record=self.record,
            outages=Outages(ledger, self.metrics), metrics=self.metrics, clock=utc_now, wakeup=self.wakeup,
            together=lambda _: together,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            self.pool.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.died.append(error)

    def work(self, work_items):
        self.turns.append(work_items[0].entry.study_id)
        for work_item in work_items:
            if work_item.entry.position in self.breaks:
                raise self.breaks[work_item.entry.position]
        return work_items

    def record(self, tx, outcomes, _fresh):
        for work_items in outcomes:
            for work_item in work_items:
                if work_item.entry.position in self.spoils:
                    raise self.spoils[work_item.entry.position]
                tx.drop(work_item.entry.position, Stage.PLACE)
                self.recorded.append(work_item.entry.position)
        return Report([], True, lambda: None)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.wakeup.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def ledger(tmp_path, ledgers):
    ledger = ledgers.open(tmp_path / "ledger")
    yield ledger
    ledger.close()


def add(ledger, *studies):
    """Add a described file for each; return their positions."""
    with ledger.write() as tx:
        return [tx.append(NewEntry(Kind.DESCRIBED, described(f"{number}.dcm"), study)).position for number, study in enumerate(studies)]


def pending(ledger):
    return [work_item.entry.position for study in {e.study_id for e in ledger.read(0, 10_000)} for work_item in ledger.pending_of(study)]


def failed(ledger):
    return [(entry.cause, entry.data["code"], entry.data["detail"]) for entry in ledger.read(0, 10_000) if entry.kind == Kind.FAILED]


def test_the_larger_a_study_the_more_of_it_is_done_at_once(ledger):
    """Each group rewrites metadata.json, which is as long as the study has files."""
    add(ledger, *["large"] * 6_000)
    with Turns(ledger, workers=1, studies=2) as pool:
        until(lambda: not pending(ledger), 60)
    assert sorted(pool.recorded) == list(range(1, 6_001))
    assert len(pool.turns) < 75, "6,000 / 64 are 94"


@pytest.mark.parametrize("together", [True, False])
def test_several_studies_are_one_group_where_that_pays(ledger, together):
    add(ledger, *(f"S{number}" for number in range(20)))
    with Turns(ledger, studies=32, together=together) as pool:
        until(lambda: not pending(ledger), 60)
    assert len(pool.turns) == (1 if together else 20)


def test_what_was_handed_back_is_claimed_again_by_itself(ledger):
    positions = add(ledger, *(f"S{number}" for number in range(20)))
    pool = Turns(ledger, studies=32)
    work = pool.pool._threads._work

    def two_of_them(work_items):
        hand_back(max(0, len(work_items) - 2))
        return work(work_items[:2])

    pool.pool._threads._work = two_of_them
    with pool:
        until(lambda: not pending(ledger), 60)
    assert sorted(pool.recorded) == positions
    assert len(pool.turns) > 10, "after a group that was too long each study is a group of its own"


def test_one_large_study_leaves_the_others_their_turn(ledger):
    add(ledger, *["large"] * 1_920, *(f"small{number}" for number in range(30)))
    with Turns(ledger) as pool:
        until(lambda: not pending(ledger), 60)
    order = [study == "large" for study in pool.turns]
    last_small = len(order) - 1 - order[::-1].index(False)
    assert sum(order[:last_small]) <= 10, "the small ones had to wait for nearly all of the large one"
    assert sorted(pool.recorded) == list(range(1, 1_951))


def test_several_large_studies_side_by_side_are_all_worked_on(ledger):
    add(ledger, *["a"] * 300, *["b"] * 300, *["c"] * 300, "d")
    with Turns(ledger) as pool:
        until(lambda: not pending(ledger), 60)
    assert set(pool.turns[:4]) == {"a", "b", "c", "d"}
    assert sorted(pool.recorded) == list(range(1, 902))


def of_every_class():
    """Make one exception of each class of Python's and of ours."""
    made = [sqlite3.OperationalError("no such table"), json.JSONDecodeError("x", "y", 0), UnicodeEncodeError("a", "b", 0, 1, "c")]
    made += [Retryable("archive-io", "x"), Permanent("upload-is-link", "x"), Rejected("x", "y"), BackupError("x")]
    made += [LedgerUnusable("ledger-newer")]
    for kind in vars(builtins).values():
        if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, (BaseExceptionGroup, UnicodeError)):
            made.append(kind("a patient's name"))
    return {type(error).__name__: error for error in made}


CLASSES = of_every_class()


@pytest.mark.parametrize("where", ["breaks", "spoils"])
def test_whatever_one_item_raises_is_its_own_failure_and_the_others_go_on(ledger, where):
    """In its own study and in a shared one; all classes of exceptions together."""
    alone = add(ledger, *(f"alone{number}" for number in range(len(CLASSES))))
    among = []
    for number in range(0, len(CLASSES), 4):
        among += add(ledger, f"among{number}", f"among{number}", f"among{number}")[1:2]
    others = set(range(1, max(among) + 2)) - set(alone) - set(among)
    errors = list(CLASSES.values())
    raised = dict(zip(alone, errors, strict=True)) | dict(zip(among, errors, strict=False))
    with Turns(ledger, **{where: raised}) as pool:
        until(lambda: others <= set(pool.recorded) and len(failed(ledger)) == len(raised), 60)
        assert pool.thread.is_alive()
    assert pool.died == []
    assert Counter(pool.recorded).keys() == others
    assert {position: detail for position, _, detail in failed(ledger)} == {at: type(error).__name__ for at, error in raised.items()}
    assert {code for _, code, _ in failed(ledger)} == {"internal-error"}
    assert set(pending(ledger)) == set(raised), "they are tried again"
    assert "a patient's name" not in str([entry.payload for entry in ledger.read(0, 10_000)])


@pytest.mark.parametrize("payload", ["[]", '"text"', "null"])
def test_an_entry_of_which_not_even_a_failure_can_be_recorded_leaves_the_others_their_turn(ledger, payload):
    """Its hashes are valid but its payload is not an object: `data.get` raises even when the failure is recorded."""
    with closing(sqlite.connect(ledger.path)) as connection:
        connection.execute(
            f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", made_entry(1, "described", json.loads(payload), study_id="odd")
        )
        connection.execute("INSERT INTO pending VALUES (1, 'place', '2026-01-01T00:00:00.000000Z', 0)")
        connection.commit()
    with Turns(ledger, breaks={1: TypeError()}) as pool:
        until(lambda: pool.turns)
        for number in range(2, 5):
            add(ledger, f"study{number}")
            pool.wakeup.set()
            until(lambda number=number: number in pool.recorded, 10)
    assert pool.died == []
    [waits] = ledger.pending_of("odd")
    assert waits.not_before > "2026-01-01T12:00:00", "put off"


def test_what_raised_once_is_done_when_it_is_tried_again(ledger):
    [position] = add(ledger, "S1")
    with Turns(ledger, breaks={position: ValueError()}) as pool:
        until(lambda: failed(ledger), 30)
        pool.breaks.clear()
        with ledger.write() as tx:
            tx.make_due(beyond_s=0)
        pool.wakeup.set()
        until(lambda: pool.recorded == [position], 30)
    assert pending(ledger) == []


def test_only_a_ledger_that_cannot_be_used_ends_a_lane(ledger):
    [position] = add(ledger, "S1")
    with Turns(ledger, breaks={position: LedgerUnusable("ledger-damaged")}) as pool:
        until(lambda: pool.died, 30)
    assert failed(ledger) == []


def test_a_lane_that_raised_goes_on_when_it_is_run_again(ledger):
    first, second = add(ledger, "S1", "S2")
    with Turns(ledger, breaks={first: LedgerUnusable("ledger-damaged")}) as pool:
        until(lambda: pool.died, 30)
    pool.breaks.clear()
    pool.stop.clear()
    pool.thread = threading.Thread(target=pool.run)
    with pool:
        until(lambda: not pending(ledger), 30)
    assert sorted(set(pool.recorded)) == [first, second]


def test_a_time_that_is_none_stops_nobody(ledger):
    first, second = add(ledger, "S1", "S2")
    with sqlite3.connect(ledger.path) as direct:
        direct.execute("UPDATE pending SET not_before = 'never' WHERE position = ?", (first,))
    direct.close()
    with Turns(ledger) as pool:
        until(lambda: second in pool.recorded, 30)
        assert pool.thread.is_alive()
