"""The power fails under traffic, with uploads, ledger and archive on three devices."""

from __future__ import annotations

import hashlib
import os
import random
import threading

import pytest

from tests.support.stack import Stack
from tests.support.volumes import Volume, cut_all, write_durably
from tests.support.waiting import until

CUTS = int(os.environ.get("STORAGE_LEDGER_CUTS", "4"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))


@pytest.mark.timeout(3600)
def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path, valkey, status_server):
    rng = random.Random(SEED)
    megabytes = 64 + 4 * CUTS  # what a round archives stays there
    volumes = [Volume(tmp_path / f"{name}.img", tmp_path / name, megabytes=megabytes) for name in ("uploads", "ledger", "archive")]
    stack = Stack(tmp_path, valkey, status_server.url)
    digests: dict[str, str] = {}
    try:
        for round_ in range(CUTS):
            stack.start()
            recovered(stack)
            # In every other round a single study, and the cut as soon as it is told: nothing that comes after it carries its
            # names to the disk by chance.
            alone = round_ % 2 == 1
            for i in range(1 if alone else 25):
                study_id = f"s{round_:03d}-{i:02d}"
                data = rng.randbytes(rng.choice((100, 5_000, 200_000)))
                digests[study_id] = hashlib.sha256(data).hexdigest()
                write_durably(stack.uploads / f"{study_id}.dcm", data)
            told: list[str] = []

            def fail(told: list[str] = told) -> None:
                told += [study_id for study_id in digests if status_server.status(study_id) == "archived"]  # read before the cut
                cut_all(rng.sample(volumes, 3))

            mine = [study_id for study_id in digests if study_id.startswith(f"s{round_:03d}")]
            power = threading.Timer(rng.uniform(0.01, 0.5), fail)
            if not alone:
                power.start()
            for study_id in mine:
                stack.publish({"study_id": study_id, "file_path": f"{study_id}.dcm"})
            if alone:
                until(lambda mine=mine: status_server.status(mine[0]) == "archived", 30, every_s=0.0005)
                fail()
            else:
                power.join()
            stack.kill()
            for volume in volumes:
                volume.unplug()
                volume.plug_in()
            found = stack.check(settled=False)
            assert found["violations"] == [], f"after cut {round_}, seed {SEED}"
            assert set(told) <= set(found["archived"]), f"told, but not in the ledger after cut {round_}, seed {SEED}"
            for study_id, digest in digests.items():
                copies = [stack.uploads / f"{study_id}.dcm", stack.archive / study_id / f"{study_id}.dcm"]
                whole = [path for path in copies if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest]
                assert whole, f"no complete copy of {study_id} after cut {round_}, seed {SEED}"
                assert study_id not in told or copies[1] in whole, f"{study_id} was told as archived before cut {round_}, seed {SEED}"
        stack.start()
        recovered(stack)
        for study_id in digests:
            if (stack.uploads / f"{study_id}.dcm").exists():  # no ledger ever heard of it: described again
                stack.publish({"study_id": study_id, "file_path": f"{study_id}.dcm"})
        until(lambda: all(status_server.status(s) == "archived" for s in digests), 90, what="all to be archived and told")
        until(stack.idle, 60)
        assert stack.check()["violations"] == []
        assert not [path for path in stack.uploads.iterdir() if path.name != "lost+found"]
        assert stack.stop() == 0
    finally:
        stack.close()
        for volume in volumes:
            if os.path.ismount(volume.mount_point):
                volume.unplug()


def recovered(stack: Stack) -> None:
    """What a restart finishes is finished, and nothing that was removed has come back."""
    until(stack.idle, 60, what="recovery to finish")
    assert stack.check()["violations"] == []
