"""An index rebuild by several processes that is killed: no worker continues, and the next rebuild finishes.

STORAGE_LEDGER_REBUILDS: how many kills (2), STORAGE_LEDGER_SEED: when, measured in bytes written.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage_ledger.index.follower import Index
from storage_ledger.index.rebuild.processes import WORTH_A_PROCESS, RebuildProcesses
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.property.test_index_properties import rows
from tests.support.figures import note
from tests.support.large_ledger import make
from tests.support.waiting import until
from tests.support.warm import Warm, WarmProcess

KILLS = int(os.environ.get("STORAGE_LEDGER_REBUILDS", "2"))
MOST_BYTES = 20_000_000  # roughly what is written until all partitions are built
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists() or RebuildProcesses.of(Path()).processes < 2, reason="needs /proc and two processors"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple]]]:
    """Make a ledger large enough for several processes, and its index built by a single one."""
    folder = tmp_path_factory.mktemp("large")
    make(folder / "ledger.db", WORTH_A_PROCESS)
    ledger = SqliteLedger(folder / "ledger.db")
    index = Index(folder / "index.db", ledger)
    index.rebuild()
    index.close()
    ledger.close()
    return folder / "ledger.db", rows(index.path)


@pytest.fixture
def folder(tmp_path: Path, large: tuple[Path, dict[str, list[tuple]]]) -> Iterator[Path]:
    made = tmp_path / "ledger"
    made.mkdir()
    shutil.copy(large[0], made)
    return made


def replay(warm: Warm, folder: Path) -> WarmProcess:
    environment = {**os.environ, "LEDGER_PATH": str(folder), "ARCHIVE_PATH": f"{folder}-archive", "UPLOADS_PATH": f"{folder}-uploads"}
    return warm.start(environment, folder.parent / "log", folder.parent, "storage-ledger", "replay", "--index")


def workers(pid: int) -> list[int]:
    """Return the worker processes, once they run."""
    found = [int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
    return [each for each in found if b"storage_ledger.index.rebuild.worker" in Path(f"/proc/{each}/cmdline").read_bytes()]


def started(process: WarmProcess) -> list[int]:
    found: list[int] = []

    def both() -> bool:
        found[:] = workers(process.pid)
        return len(found) > 1

    until(both, 30, what="the workers to start")
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def written(folder: Path) -> int:
    """Return how many bytes were written, into the partitions and the index."""
    total = 0
    for path in folder.glob("index.db*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def shares(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "share" in path.name]


def test_kill_dash_nine_of_a_rebuild_ends_its_workers_and_the_next_one_finishes(folder, large, warm):
    rng = random.Random(SEED)
    met = 0
    for _ in range(KILLS):
        process = replay(warm, folder)
        theirs = started(process)
        point = rng.randrange(MOST_BYTES)
        until(lambda at=point, of=process.pid: written(folder) >= at or is_gone(of), 60, what="so much to be written")
        os.kill(process.pid, signal.SIGKILL)
        met += process.wait(30) == -signal.SIGKILL
        until(lambda found=theirs: all(map(is_gone, found)), 10, what="the workers to end")
    assert replay(warm, folder).wait(60) == 0, (folder.parent / "log").read_text()
    assert rows(folder / "index.db") == large[1]
    assert not shares(folder)
    note("killed: a rebuild", points=met, of=KILLS, seed=SEED)


def test_a_rebuild_finishes_though_a_worker_of_it_is_killed(folder, large, warm):
    process = replay(warm, folder)
    os.kill(started(process)[0], signal.SIGKILL)
    assert process.wait(60) == 0
    assert "index.worker-lost" in (folder.parent / "log").read_text()
    assert rows(folder / "index.db") == large[1]
    assert not shares(folder)


def test_ctrl_c_ends_a_rebuild_and_its_workers_and_leaves_nothing_behind(folder, warm):
    codes = []
    while 130 not in codes and len(codes) < 4:  # a kill near the end may find the rebuild finished
        process = replay(warm, folder)
        theirs = started(process)
        os.kill(process.pid, signal.SIGINT)
        codes.append(process.wait(30))
        until(lambda found=theirs: all(map(is_gone, found)), 10, what="the workers to end")
        assert not shares(folder)
    assert codes[-1] == 130
    assert set(codes[:-1]) <= {0}
