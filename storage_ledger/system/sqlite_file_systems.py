"""Refuses file systems on which SQLite is not safe."""

from __future__ import annotations

from pathlib import Path

from storage_ledger.errors import LedgerUnusable
from storage_ledger.system.file_system_kind import kind_of

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.sshfs",
    "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
})  # fmt: skip


def require_local(folder: Path) -> None:
    """Raise `LedgerUnusable` on a file system where SQLite's locks or shared memory do not work. Checks on Linux only."""
    kind = kind_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerUnusable(
            "ledger-on-network-file-system",
            f"{folder} is on {kind}: SQLite is not safe there. Set LEDGER_PATH to a folder on a local disk.",
        )
