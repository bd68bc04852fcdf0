"""A volume that fills up after a given number of pages or inodes. Once it has space again, everything is archived.

Each level is a run with a fixed amount of space; levels increase until everything fits. STORAGE_LEDGER_FULL: run every n-th level
of each volume (0: the short form, a few levels).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recovery.trial import Driver, Trial, Violations, copy_of, empty, summary, template
from tests.support.figures import note
from tests.support.making import small_volume
from tests.support.volumes import Volume

STEP = int(os.environ.get("STORAGE_LEDGER_FULL", "0"))
PAGE = 4096
MOST = 400  # levels; everything must fit by then
SHORT = {"pages": (0, 3, 12), "inodes": (0, 2)}

Room = Callable[[int], None]


@dataclass(slots=True)
class Small:
    """A mounted volume. `leave(n)` uses all its space except n pages or inodes; `make_room` frees it."""

    mount_point: Path
    unit: str

    @property
    def _ballast(self) -> Path:
        return self.mount_point / "ballast"

    def leave(self, count: int) -> None:
        if self.unit == "pages":
            with self._ballast.open("wb", buffering=0) as ballast:
                with contextlib.suppress(OSError):
                    while ballast.write(bytes(PAGE)):
                        pass
                with contextlib.suppress(OSError):
                    os.fsync(ballast.fileno())  # delayed allocation: take the space now, or fail
                ballast.truncate(max(1, ballast.tell() - count * PAGE))
            return
        self._ballast.mkdir()
        for n in range(os.statvfs(self.mount_point).f_ffree - count):
            (self._ballast / str(n)).touch()

    def make_room(self) -> None:
        if self.unit == "pages":
            self._ballast.unlink()
        else:
            shutil.rmtree(self._ballast)


@contextmanager
def tmpfs_pages(folder: Path) -> Iterator[Small]:
    with small_volume(folder, "8m") as mount_point:
        yield Small(mount_point, "pages")


@contextmanager
def tmpfs_inodes(folder: Path) -> Iterator[Small]:
    with small_volume(folder, "8m,nr_inodes=100") as mount_point:
        yield Small(mount_point, "inodes")


@contextmanager
def ext4_pages(folder: Path) -> Iterator[Small]:
    volume = Volume(folder.with_suffix(".img"), folder, megabytes=16)
    try:
        yield Small(folder, "pages")
    finally:
        volume.unplug()


Kind = Callable[[Path], AbstractContextManager[Small]]


def full_run(start: Trial, driver: Driver, folder: Path, kind: Kind, which: str, room: int) -> tuple[bool, Violations]:
    """Run one level; return whether everything fitted, and what was wrong."""
    folder.mkdir()
    with kind(folder / "volume") as volume:
        trial = copy_of(start, driver, folder, {which: volume.mount_point / which})
        volume.leave(room)
        full = True

        def make_room(_: list[str]) -> None:
            nonlocal full
            if not full:
                trial.bad("stuck-with-room")
            else:
                volume.make_room()
            full = False

        ended = trial.run(when_stuck=make_room)
        trial.outlived(ended)
        fitted = full and ended.code == 0
        if full:
            volume.make_room()
        if ended.code:
            trial.settle()
        trial.check(settled=True)
        for violation in trial.violations:
            violation["level"] = f"{which}: {room} {volume.unit}"
        return fitted, trial.violations


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("driver"))
    yield made
    made.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("begins", ["first", "work"])
@pytest.mark.parametrize("which", ["archive", "ledger", "uploads"])
@pytest.mark.parametrize("kind", [tmpfs_pages, tmpfs_inodes, ext4_pages])
def test_whatever_is_full_all_is_archived_when_there_is_room(tmp_path: Path, driver: Driver, kind: Kind, which: str, begins: str) -> None:
    if kind is ext4_pages and not STEP:
        pytest.skip("ext4 volumes: only in the long form, scripts/faults")
    start = (empty if begins == "first" else template)(driver, tmp_path / "start")
    violations: Violations = []
    unit = "inodes" if kind is tmpfs_inodes else "pages"
    step = 1 if unit == "inodes" else STEP
    levels = range(0, MOST, step) if STEP else SHORT[unit]
    fitted = False
    for n, level in enumerate(levels):
        fitted, found = full_run(start, driver, tmp_path / f"level-{level}", kind, which, level)
        violations += found
        note(f"full {kind.__name__} {which} {begins}", points=n + 1, studies=(n + 1) * start.scenario.studies, violations=len(violations))
        if fitted:
            break
    assert fitted or not STEP, "the last level must be one on which everything fits"
    assert not violations, summary(violations)
