"""A file system that, like SMB, APFS and NTFS, treats names as equal if they differ only in case or in a trailing dot.

    python -m tests.support.alike FOLDER MOUNT_POINT [OPTION]…

mounts FOLDER there, through FUSE, until it is unmounted. Options: `numbers` (all names of a file share one inode number; without
it each name has its own, as on some network file systems), `no-links` (no hard links, as on FAT).
"""

# ruff: noqa: ARG002 - FUSE passes all of these arguments
from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until


@contextmanager
def alike(folder: Path, mount_point: Path, *options: str) -> Iterator[Path]:
    """Mount it there for the `with` block; skip the test where that is impossible."""
    if not os.access("/dev/fuse", os.W_OK) or shutil.which("fusermount3") is None:
        pytest.skip("a file system that does not tell upper from lower case takes /dev/fuse and fuse3")
    for each in (folder, mount_point):
        each.mkdir()
    command = [sys.executable, "-m", __name__, folder, mount_point, *options]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: process.poll() is not None or mount_point.is_mount(), 30, what="it to be mounted")
            if process.poll() is not None:
                pytest.skip("FUSE mounts nothing here")
            yield mount_point
        finally:
            subprocess.run(["fusermount3", "-u", "-z", mount_point], check=False, capture_output=True)
            process.terminate()


def _main(folder: str, mount_point: str, *options: str) -> None:
    import mfusepy  # noqa: PLC0415 - only this needs libfuse

    class Alike(mfusepy.Operations):  # type: ignore[misc] # it ships no types
        use_ns = True

        def __call__(self, operation: str, *arguments: Any) -> Any:
            try:
                return super().__call__(operation, *arguments)
            except mfusepy.FuseOSError:
                raise
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from None

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(_real(path))
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")
            return {name: getattr(found, name) for name in names} | {
                f"st_{each}": getattr(found, f"st_{each}_ns") for each in ("atime", "mtime", "ctime")
            }

        def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
            # The kernel skips an entry without an inode number.
            return [(name, {"st_ino": os.lstat(os.path.join(_real(path), name)).st_ino}, 0) for name in os.listdir(_real(path))]

        def statfs(self, path: str) -> dict[str, int]:
            found = os.statvfs(_real(path))
            return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name not in {"f_fsid", "f_flag"}}

        def mkdir(self, path: str, mode: int) -> None:
            os.mkdir(_real(path), mode)

        def rmdir(self, path: str) -> None:
            os.rmdir(_real(path))

        def unlink(self, path: str) -> None:
            os.unlink(_real(path))

        def rename(self, old: str, new: str) -> None:
            os.rename(_real(old), _real(new))

        def link(self, target: str, source: str) -> None:
            if "no-links" in options:
                raise mfusepy.FuseOSError(errno.EPERM)
            os.link(_real(source), _real(target))

        def chmod(self, path: str, mode: int) -> None:
            os.chmod(_real(path), mode)

        def create(self, path: str, mode: int, fi: object = None) -> int:
            return os.open(_real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def open(self, path: str, flags: int) -> int:
            return os.open(_real(path), flags & ~os.O_CREAT)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            os.truncate(_real(path), length)

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            os.fsync(fh)

        def release(self, path: str, fh: int) -> None:
            os.close(fh)

    def _real(path: str) -> str:
        at = folder
        for part in filter(None, path.split("/")):
            meant = part.lower().rstrip(".")
            at = os.path.join(at, next((each for each in os.listdir(at) if each.lower().rstrip(".") == meant), part))
        return at

    mfusepy.FUSE(Alike(), mount_point, foreground=True, nothreads=True, use_ino="numbers" in options)


if __name__ == "__main__":
    _main(*sys.argv[1:])
