"""Which kind of file system a path is on, as the kernel's list of mounts names it."""

from __future__ import annotations

import os
from pathlib import Path


def kind_of(folder: Path) -> str | None:
    """Return ext4, nfs4, fuse.sshfs …, or None if it is unknown: on other systems than Linux."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(folder)
    best, kind = "", None
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
