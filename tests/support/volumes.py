"""File systems on loop devices, whose power can be cut."""

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

from tests.support.waiting import until

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, the same number as XFS_IOC_GOINGDOWN
NO_LOG_FLUSH = 2


class Volume:
    """`cut`: from now on nothing reaches the disk, and unsynced data is lost; `plug_in` mounts what is left."""

    def __init__(self, image: Path, mount_point: Path, kind: str = "ext4", megabytes: int = 64) -> None:
        megabytes = max(megabytes, 320 if kind == "xfs" else 0)  # XFS cannot be smaller; the image is sparse
        if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None or shutil.which("losetup") is None:
            pytest.skip(f"a volume to cut takes root, losetup and mkfs.{kind}")
        self.image, self.mount_point, self.kind = image, mount_point, kind
        with image.open("wb") as out:
            out.truncate(megabytes << 20)
        # Block size of a real volume: small images get smaller blocks, but SQLite reserves space by 4 KiB.
        more = ["-f"] if kind == "xfs" else ["-b", "4096"]
        subprocess.run([f"mkfs.{kind}", "-q", *more, image], check=True, capture_output=True)
        mount_point.mkdir(exist_ok=True)
        self.plug_in()

    def plug_in(self) -> None:
        """Mount it."""
        done = subprocess.run(["mount", "-o", "loop", self.image, self.mount_point], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device can be mounted here: {done.stderr.strip()}")

    def cut(self) -> None:
        """Cut the power."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unplug(self) -> None:
        """Unmount it. A killed process may still be closing its files."""
        until(lambda: subprocess.run(["umount", self.mount_point], check=False, capture_output=True).returncode == 0, 10, every_s=0.02)


def replug(volumes: Iterable[Volume]) -> None:
    """Unmount and mount all of them, in parallel."""
    with ThreadPoolExecutor(3) as pool:
        for _ in pool.map(lambda volume: (volume.unplug(), volume.plug_in()), volumes):
            pass


def cut_all(volumes: Iterable[Volume]) -> None:
    """Cut the power of all of them."""
    for volume in volumes:
        volume.cut()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file as a gateway should: the file and its name are durable on return."""
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
