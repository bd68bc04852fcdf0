"""Refuses file systems on which SQLite is not safe."""

from __future__ import annotations

import os
from pathlib import Path

from storage_ledger.errors import LedgerUnusable

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.sshfs",
    "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
})  # fmt: skip


def require_local(folder: Path) -> None:
    """Raise `LedgerUnusable` on a file system where SQLite's locks or shared memory do not work. Checks on Linux only."""
    kind = _kind(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerUnusable(
            "ledger-on-network-file-system",
            f"{folder} is on {kind}: SQLite is not safe there. Set LEDGER_PATH to a folder on a local disk.",
        )


def _kind(folder: Path) -> str | None:
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
