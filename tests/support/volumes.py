"""File systems of their own on loop devices, whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, which is XFS_IOC_GOINGDOWN too
NO_LOG_FLUSH = 2


class Volume:
    """`cut`: from now on nothing reaches the disk, what was not synced is gone; `plug_in` mounts it as it was left."""

    def __init__(self, image: Path, mount_point: Path, kind: str = "ext4", megabytes: int = 64) -> None:
        megabytes = max(megabytes, 320 if kind == "xfs" else 0)  # it is not made smaller; the image is sparse
        if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None or shutil.which("losetup") is None:
            pytest.skip(f"a volume to cut takes root, losetup and mkfs.{kind}")
        self.image, self.mount_point, self.kind = image, mount_point, kind
        with image.open("wb") as out:
            out.truncate(megabytes << 20)
        # Pages as large as those of any real volume: small images get smaller ones, and SQLite reserves room by 4 KiB.
        more = ["-f"] if kind == "xfs" else ["-b", "4096"]
        subprocess.run([f"mkfs.{kind}", "-q", *more, image], check=True, capture_output=True)
        mount_point.mkdir(exist_ok=True)
        self.plug_in()

    def plug_in(self) -> None:
        """Mount."""
        done = subprocess.run(["mount", "-o", "loop", self.image, self.mount_point], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device can be mounted here: {done.stderr.strip()}")

    def cut(self) -> None:
        """The power fails."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unplug(self) -> None:
        """Unmount."""
        subprocess.run(["umount", self.mount_point], check=True, capture_output=True)


def replug(volumes: Iterable[Volume]) -> None:
    """Unmount and mount all of them, at the same time."""
    with ThreadPoolExecutor(3) as pool:
        for _ in pool.map(lambda volume: (volume.unplug(), volume.plug_in()), volumes):
            pass


def cut_all(volumes: Iterable[Volume]) -> None:
    """The power fails for all of them."""
    for volume in volumes:
        volume.cut()


def write_durably(path: Path, data: bytes) -> None:
    """As a gateway should: the file and its name are on the disk on return."""
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
