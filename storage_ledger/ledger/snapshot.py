"""Copies a ledger file consistently while other processes write to it."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from storage_ledger.errors import LedgerBusy
from storage_ledger.system import files
from storage_ledger.system.sqlite import errors_mapped, quoted, sqlite

MODE = 0o640
PAGES_AT_ONCE = 2048
_FULL = "database or disk is full"  # sqlite.org/rescode.html#full; the driver gives this call's errors no name
_FORMAT_VERSIONS = 18  # sqlite.org/fileformat.html §1.3.3: two bytes, 2 for WAL and 1 for a rollback journal


def copy_to(ledger_file: Path, target: Path, on_progress: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Copy one snapshot of the ledger while others may append. `target` must not exist; its bytes are durable on return.

    One read transaction surrounds SQLite's backup (sqlite.org/backup.html), so in WAL mode it neither blocks writers nor restarts;
    VACUUM INTO costs several times the CPU. The copy is in rollback mode: one file, readable on a read-only volume. `on_progress` gets
    the pages copied and the total.
    """
    with files.opened(target, files.CREATE, mode=MODE):
        pass
    # No other process uses the target: it needs no journal, and no locks, which its volume may not support.
    with (
        errors_mapped(),
        closing(sqlite.connect(f"file:{quoted(ledger_file)}?mode=rw", uri=True, isolation_level=None, timeout=30)) as source,
        closing(sqlite.connect(f"file:{quoted(target)}?mode=rw&nolock=1", uri=True, isolation_level=None)) as copy,
    ):
        source.execute("PRAGMA query_only = ON")
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # starts the snapshot
        try:
            source.backup(copy, pages=PAGES_AT_ONCE, progress=lambda _, left, pages: on_progress(pages - left, pages))
        except sqlite.Error as error:
            if str(error) == _FULL:
                raise LedgerBusy("ledger-full", f"the volume of {target} is full", errno=errnos.ENOSPC) from error
            if not getattr(error, "sqlite_errorname", None):
                raise LedgerBusy("ledger-io", f"could not be copied to {target}", errno=errnos.EIO) from error
            raise
        source.execute("ROLLBACK")
    with files.opened(target, files.READ_WRITE) as descriptor:
        os.pwrite(descriptor, b"\x01\x01", _FORMAT_VERSIONS)
        files.set_mode_and_owner(descriptor, target.parent, MODE)
        os.fsync(descriptor)
