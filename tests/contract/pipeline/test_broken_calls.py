"""Every class of exception at every call of a step: the pool survives, other studies continue, the failure is reported."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from contextlib import contextmanager

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline import notify, remove
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.place import placer as place
from storage_ledger.pipeline.place.placer import Placer
from storage_ledger.pipeline.place.recorder import PlaceRecorder
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.remove import Remover
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics
from tests.contract.pipeline.test_worker_pool import CLASSES
from tests.support.pipeline import Acknowledging
from tests.support.waiting import until

# The calls that name a study, by its id or by the path of its upload; S<number>.dcm is that of study S<number>.
CALLS = {
    "ledger": ("study", "has_kind"),
    "uploads": ("open", "identity_of", "remove"),
    "batch": ("study",),
    "folder": ("copy", "link", "open", "write_metadata"),
    "client": ("tell",),
}
SHARED = {"archive": ("sync_new_folders",), "batch": ("sync_copies", "sync_names"), "uploads": ("sync_folders",)}
"""Calls for several studies at once."""

TIMES = 2
"""If one of a batch raises, the remover repeats the batch one by one: the second time it is that item's own failure."""


class Breaking:
    """Passes every call on, but raises a study's queued exceptions at its first calls."""

    def __init__(self, target, name, waiting, study=None):
        self._target = target
        self._name = name
        self._waiting = waiting
        self._study = study

    def __getattr__(self, called):
        real = getattr(self._target, called)
        if not callable(real):
            return real

        def call(*arguments, **more):
            arguments = tuple(list(each) if each.__class__.__name__ == "generator" else each for each in arguments)
            for study in [self._study] if self._study else named(arguments):
                if errors := self._waiting.get((self._name, called, study)):
                    raise errors.pop()
            return real(*arguments, **more)

        return call


class BreakingArchive(Breaking):
    """An archive whose batches and study folders raise, too."""

    @contextmanager
    def batch(self, studies):
        with self._target.batch(studies) as batch:
            yield BreakingBatch(batch, "batch", self._waiting)


class BreakingBatch(Breaking):
    """Its own calls and those of its folders name no study: these are the studies that it has begun."""

    def __init__(self, target, name, waiting):
        super().__init__(target, name, waiting)
        self._begun = []

    def study(self, study_id, **more):
        self._begun.append(study_id)
        if errors := self._waiting.get((self._name, "study", study_id)):
            raise errors.pop()
        return Breaking(self._target.study(study_id, **more), "folder", self._waiting, study_id)

    def sync_copies(self):
        return self._of_all("sync_copies")

    def sync_names(self):
        return self._of_all("sync_names")

    def _of_all(self, called):
        for study in self._begun:
            if errors := self._waiting.get((self._name, called, study)):
                raise errors.pop()
        return getattr(self._target, called)()


def named(arguments):
    """Return the studies that a call is about."""
    for each in arguments:
        for text in each if isinstance(each, (list, set, tuple)) else [each]:
            if isinstance(text, str):
                yield text.removesuffix(".dcm")


class Lanes:
    """The three worker pools in threads, on a real ledger, real folders and a real Status Service."""

    def __init__(self, folder, status_url):
        for name in ("uploads", "archive", "ledger"):
            (folder / name).mkdir()
        migrate(folder / "ledger" / "ledger.db")
        self.uploads = folder / "uploads"
        self.waiting = {}
        self.wakeups = Wakeups()
        self.real = SqliteLedger(folder / "ledger" / "ledger.db", on_commit=self.wakeups.committed)
        self.client = StatusClient(status_url)
        self.metrics = Metrics()
        ledger = Breaking(self.real, "ledger", self.waiting)
        uploads = Breaking(Uploads(self.uploads), "uploads", self.waiting)
        archive = BreakingArchive(FilesystemArchive(folder / "archive"), "archive", self.waiting)
        client = Breaking(self.client, "client", self.waiting)
        outages = Outages(self.real, self.metrics)
        common = {"metrics": self.metrics, "clock": utc_now}
        remover = Remover(uploads, archive, settle_s=0, **common)
        placer = Placer(ledger, uploads, archive, grace_s=300, steady_since=utc_now, clock=utc_now)
        recorder = PlaceRecorder(placer.folds, on_copied=remover.remember, **common)
        notifier = Notifier(ledger, client, archive_root=str(folder / "archive"), confirm_s=0, **common)
        shared = {"outages": outages, **common}
        self.pools = [
            WorkerPool(
                place.POLICY, ledger, work=placer.place_batch, before_commit=placer.sync_new_folders, record=recorder.record,
                wakeup=self.wakeups.of(Sleeper.PLACE), **shared,
            ),
            WorkerPool(
                remove.POLICY, ledger, work=remover.remove_batch, record=remover.record, wakeup=self.wakeups.of(Sleeper.REMOVE), **shared
            ),
            WorkerPool(notify.POLICY, ledger, work=notifier.tell, record=notifier.record, wakeup=self.wakeups.of(Sleeper.NOTIFY), **shared),
        ]  # fmt: skip
        self.intake = Intake(
            self.real, Acknowledging(), UploadPaths(str(self.uploads)), metrics=self.metrics, clock=utc_now, rejected_per_hour=9,
            wakeups=self.wakeups,
        )  # fmt: skip
        self.stop = threading.Event()
        self.died = []
        self.threads = [threading.Thread(target=self.run, args=(pool,)) for pool in self.pools]

    def run(self, pool):
        try:
            pool.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.died.append((pool.policy.step, error))

    def describe(self, studies):
        for study in studies:
            (self.uploads / f"{study}.dcm").write_bytes(study.encode())
        self.intake.append([Delivery(json.dumps({"study_id": each, "file_path": f"{each}.dcm"}).encode(), "pubsub") for each in studies])

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.wakeups.ring_all()
        for thread in self.threads:
            thread.join(30)
        self.client.close()
        self.real.close()


@pytest.mark.timeout(240)
def test_whatever_a_call_raises_for_one_study_stops_nobody_and_is_recorded(tmp_path, status_server):
    errors = {name: error for name, error in CLASSES.items() if name not in {"Retryable", "Permanent"}}  # those are foreseen
    errors["LedgerBusy"] = LedgerBusy("ledger-busy")
    lanes = Lanes(tmp_path, status_server.url)
    broken = {}
    for part, calls in CALLS.items():
        for call in calls:
            for name, error in errors.items():
                study = f"S{len(broken)}"
                broken[study] = (part, call, name)
                lanes.waiting[part, call, study] = [error] * TIMES
    for part, calls in SHARED.items():
        for call in calls:
            for name, error in list(errors.items())[::6]:
                study = f"S{len(broken)}"
                broken[study] = (part, call, name)
                lanes.waiting[part, call, study] = [error] * TIMES
    others = [f"whole{number}" for number in range(200)]
    everybody = [*broken, *others]
    random.Random(1).shuffle(everybody)  # many in a row with the same failure would have a common cause, which pauses the pool
    with lanes:
        for begin in range(0, len(everybody), 100):
            lanes.describe(everybody[begin : begin + 100])
        until(lambda: all(status_server.status(study) == "archived" for study in others), 120)
        until(lambda: not list(lanes.uploads.iterdir()) and not [q for q in lanes.real.queue() if q.stage != "confirm"], 200)
        assert [thread.is_alive() for thread in lanes.threads] == [True] * 3
    assert lanes.died == []
    assert {place for place, errors in lanes.waiting.items() if errors} == set(), "each was met"
    ledger = SqliteLedger(tmp_path / "ledger" / "ledger.db")
    entries = ledger.read(0, 100_000)
    ledger.close()
    archived = Counter(entry.study_id for entry in entries if entry.kind == Kind.ARCHIVED)
    assert archived.keys() == set(everybody)
    failures = [entry for entry in entries if entry.kind == Kind.FAILED]
    failed = {entry.study_id for entry in failures}
    for_all = {f"{entry.data['step']} {entry.data['code']}" for entry in failures if entry.study_id is None}
    unseen = {study: what for study, what in broken.items() if study not in failed and what[2] != "LedgerBusy"}
    if "place upload-io" in for_all:  # five studies in a row had it: from then on, it is recorded once for all
        unseen = {study: what for study, what in unseen.items() if what[1] != "place" or not isinstance(errors[what[2]], OSError)}
    assert unseen == {}
    assert all(status_server.status(study) == "archived" for study in everybody)


@pytest.mark.parametrize(("part", "call", "named", "times"), [("archive", "sync_new_folders", "S", 1), ("uploads", "open", "f1", 2)])
def test_metadata_json_of_a_study_that_was_taken_one_by_one_has_all_its_files(tmp_path, status_server, part, call, named, times):
    lanes = Lanes(tmp_path, status_server.url)
    names = [f"f{number}.dcm" for number in range(4)]
    for name in names:
        (lanes.uploads / name).write_bytes(name.encode())
    lanes.intake.append([Delivery(json.dumps({"study_id": "S", "file_path": name}).encode(), "pubsub") for name in names])
    lanes.waiting[part, call, named] = [MemoryError() for _ in range(30 if part == "uploads" else times)]
    there = names if part == "archive" else [name for name in names if name != "f1.dcm"]
    with lanes:
        until(lambda: sum(e.kind == Kind.ARCHIVED for e in lanes.real.study("S")) == len(there), 30)
        found = json.loads((tmp_path / "archive" / "S" / "metadata.json").read_bytes())
        assert [file["name"] for file in found["files"]] == there
