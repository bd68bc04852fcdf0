"""A volume that really hangs: on a frozen file system no write or unlink returns, and a waiting process cannot be killed.

The archive's or the uploads' volume is frozen while studies arrive, sometimes while the service is stopped or killed. After the
thaw, everything must be there, once. STORAGE_LEDGER_HANGS: how many freezes; from 4 on, the first one lasts until the service gives
up on the hanging calls.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from storage_ledger.pipeline.worker_pool import HANGS_AFTER_S
from tests.integration.test_the_way_of_one_event import assert_archived, upload
from tests.support.figures import note
from tests.support.stack import Stack
from tests.support.volumes import Volume
from tests.support.waiting import until

HANGS = int(os.environ.get("STORAGE_LEDGER_HANGS", "2"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "11"))
STUDIES = 6


@contextmanager
def frozen(volume: Volume) -> Iterator[None]:
    """Freeze the volume: everything that writes to it waits."""
    subprocess.run(["fsfreeze", "--freeze", volume.mount_point], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", volume.mount_point], check=True)


@pytest.mark.timeout(7200)
def test_a_volume_that_hangs_stops_nobody_for_ever_and_nothing_is_lost_or_doubled(tmp_path, valkey, status_server):
    if shutil.which("fsfreeze") is None:
        pytest.skip("fsfreeze is not here")
    volumes = {name: Volume(tmp_path / f"{name}.img", tmp_path / name) for name in ("archive", "uploads")}
    for volume in volumes.values():
        (volume.mount_point / "data").mkdir()
    stack = Stack(tmp_path, valkey, status_server.url, uploads=volumes["uploads"].mount_point / "data")
    stack.archive = volumes["archive"].mount_point / "data"
    stack.environment["ARCHIVE_PATH"] = str(stack.archive)
    rng = random.Random(SEED)
    files: dict[str, bytes] = {}
    began = time.monotonic()
    try:
        stack.start()
        for number in range(HANGS):
            name = ("archive", "uploads")[number % 2]
            ending = (None, signal.SIGTERM, signal.SIGKILL)[number % 3]
            messages = []
            for i in range(STUDIES):
                message, files[f"s{number}-{i}"] = upload(stack, f"s{number}-{i}", seed=number * 100 + i)
                messages.append(message)
            with frozen(volumes[name]):
                for message in messages:
                    stack.publish(message)
                until(lambda: _described(stack) == len(files), 30, what="all to be recorded")
                if number == 0 and HANGS > 3:
                    until(lambda: '"hangs"' in stack.get("/readyz")[1], HANGS_AFTER_S + 30, what="it to say that calls hang")
                time.sleep(rng.uniform(0, 1))  # a random moment of the work
                if ending is not None:
                    os.kill(stack.process.pid, ending)
            if ending is not None:
                stack.process.wait(60)  # not before: a process that waits for the volume cannot end
                stack.start()
            until(lambda: all(status_server.status(s) == "archived" for s in files), 60, what="all to be archived")
            until(stack.idle, 30, what="nothing to be pending")
            assert_archived(stack, files)
            found = stack.check()["violations"]
            seconds = round(time.monotonic() - began, 1)
            note("hangs", points=number + 1, of=HANGS, studies=len(files), seconds=seconds, seed=SEED, violations=len(found))
            assert found == [], f"after freeze {number + 1}, seed {SEED}"
            assert not list(stack.uploads.iterdir())
        assert stack.stop() == 0
    finally:
        stack.close()
        for volume in volumes.values():
            volume.unplug()


def _described(stack: Stack) -> int:
    connection = sqlite3.connect(f"file:{stack.ledger}/ledger.db?mode=ro", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM entries WHERE kind = 'described'").fetchone()[0]
    finally:
        connection.close()
