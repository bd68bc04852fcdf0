"""The power fails under traffic and during recovery, with uploads, ledger and archive on three devices."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time

import pytest

from tests.recovery.invariants import Checker
from tests.support.figures import note
from tests.support.memory import in_memory
from tests.support.stack import Stack
from tests.support.volumes import Volume, cut_all, replug, write_durably
from tests.support.waiting import until

CUTS = int(os.environ.get("STORAGE_LEDGER_CUTS", "6"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))
CUTS_OF_A_LEDGER = 15  # then new volumes, to keep the check after each cut short
FIGURES = {"points": 0, "of": CUTS, "studies": 0, "seconds": 0.0, "seed": SEED, "violations": 0}


@pytest.fixture
def images(tmp_path):
    """Put the images into memory: syncs are immediate, so there is time for ten times the cuts, and a cut loses the same data."""
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("kind", "cuts", "workers"), [("ext4", CUTS - CUTS * 2 // 5, (0, 2)), ("xfs", CUTS * 2 // 5, (2, 0))])
def test_a_power_cut_loses_nothing_that_was_acknowledged(kind, cuts, workers, tmp_path, images, valkey, status_server, warm):
    rng = random.Random(f"{SEED} {kind}")
    began = time.monotonic()
    for number, first in enumerate(range(0, cuts, CUTS_OF_A_LEDGER)):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = ("uploads", "ledger", "archive")
        volumes = [Volume(images / f"{name}.img", folder / name, kind) for name in names]
        stack = Stack(folder, valkey, status_server.url, warm=warm, WORKERS=workers[number % 2])
        life = Life(stack, volumes, status_server, rng, f"{kind}, seed {SEED}")
        try:
            for _ in range(min(CUTS_OF_A_LEDGER, cuts - first)):
                life.until_a_cut()
                FIGURES["points"] += 1
                FIGURES["studies"] += life.described
                note("cuts", **{**FIGURES, "seconds": round(FIGURES["seconds"] + time.monotonic() - began, 1)})
            life.to_its_end()
        finally:
            stack.close()
            for volume in volumes:
                if os.path.ismount(volume.mount_point):
                    volume.unplug()
    FIGURES["seconds"] = round(FIGURES["seconds"] + time.monotonic() - began, 1)
    note("cuts", **FIGURES)


class Life:
    """The life of one ledger and its volumes, from cut to cut."""

    def __init__(self, stack: Stack, volumes: list[Volume], status_server, rng: random.Random, where: str) -> None:
        self.stack, self.volumes, self.status_server, self.rng, self.where = stack, volumes, status_server, rng, where
        self.digests: dict[str, str] = {}
        self.told: set[str] = set()
        self.cuts = 0
        self.described = 0

    def until_a_cut(self) -> None:
        """Start, give it work, cut the power; then check what is left."""
        self.cuts += 1
        self.described = 0
        way = self.rng.choice(("traffic", "traffic", "alone", "recovering")) if self.cuts > 1 else "traffic"
        if way == "recovering":  # again, before the work interrupted by the last cut is finished
            self.stack.start(ready=False)
            self.cut_within(self.rng.uniform(0.1, 0.5))
        else:
            self.stack.start()
            self.recovered()
            # A single study, and the cut as soon as its status is sent: no later sync can save its names by chance.
            mine = self.upload(1 if way == "alone" else 12)
            for study_id in mine if way == "alone" else [*mine, *self.rng.sample(mine, 4)]:
                self.publish(study_id)
            if way == "alone":
                until(lambda: self.status_server.status(mine[0]) == "archived", 30, every_s=0.0005)
                self.cut_within(0)
            else:
                self.cut_within(self.rng.uniform(0.0, 0.25))
        self.stack.kill()
        replug(self.volumes)
        self.nothing_is_lost(f"after cut {self.cuts}, {way}, {self.where}")

    def to_its_end(self) -> None:
        """Check that everything is archived in the end."""
        self.stack.start()
        self.recovered()
        for study_id in self.digests:
            if (self.stack.uploads / f"{study_id}.dcm").exists():  # never recorded: described again
                self.publish(study_id)
        until(lambda: all(self.status_server.status(s) == "archived" for s in self.digests), 90, what="all to be archived and told")
        self.recovered()
        assert not [path for path in self.stack.uploads.iterdir() if path.name != "lost+found"]
        assert self.stack.stop() == 0

    def recovered(self) -> None:
        """Check that a restart finished its work, and that no removed upload has come back."""
        until(self.stack.idle, 60, what="recovery to finish")
        self.nothing_is_violated(settled=True, when=f"recovered from cut {self.cuts}, {self.where}")

    def upload(self, count: int) -> list[str]:
        mine = [f"s{self.cuts:03d}-{i:02d}" for i in range(count)]
        for study_id in mine:
            data = self.rng.randbytes(self.rng.choice((100, 5_000, 200_000)))
            self.digests[study_id] = hashlib.sha256(data).hexdigest()
            write_durably(self.stack.uploads / f"{study_id}.dcm", data)
            self.status_server.forget(study_id)  # another volume's study may have had this name
        self.described = count
        return mine

    def publish(self, study_id: str) -> None:
        self.stack.publish({"study_id": study_id, "file_path": f"{study_id}.dcm"})

    def cut_within(self, seconds: float) -> None:
        def fail() -> None:
            # Read before the cut: in a real power cut the process would be dead and could send nothing after it.
            self.told = {study_id for study_id in self.digests if self.status_server.status(study_id) == "archived"}
            cut_all(self.rng.sample(self.volumes, 3))

        power = threading.Timer(seconds, fail)
        power.start()
        power.join()

    def nothing_is_violated(self, *, settled: bool, when: str) -> dict:
        stack = self.stack
        found = Checker(stack.uploads, stack.archive, stack.ledger, settled).run()
        FIGURES["violations"] += len(found["violations"])
        assert found["violations"] == [], when
        return found

    def nothing_is_lost(self, when: str) -> None:
        found = self.nothing_is_violated(settled=False, when=when)
        assert self.told <= set(found["archived"]), f"told, but not in the ledger {when}"
        for study_id, digest in self.digests.items():
            copies = [self.stack.uploads / f"{study_id}.dcm", self.stack.archive / study_id / f"{study_id}.dcm"]
            whole = [path for path in copies if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest]
            assert whole, f"no complete copy of {study_id} {when}"
            assert study_id not in self.told or copies[1] in whole, f"{study_id} was told as archived {when}"
