"""Wires `storage-ledger backup` from the settings."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.errors import BackupError, LedgerError
from storage_ledger.ledger.migrate import require_writable
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations import backup
from storage_ledger.settings import Settings
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.stores import UMASK


def back_up(settings: Settings, dest: Path, on_progress: backup.BackupProgress) -> tuple[Path, backup.Manifest, LedgerError | None]:
    """Back up the ledger into `dest`, whether or not `serve` is running, and note the backup in the ledger.

    The last value says why it could not be noted; the backup is complete nevertheless. Raises `BackupError`, `LedgerError`, `Locked`.
    """
    os.umask(UMASK)
    require_writable(settings.ledger_file)
    real = Path(os.path.realpath(dest))
    for name, path in (
        ("UPLOADS_PATH", settings.uploads_path),
        ("ARCHIVE_PATH", settings.archive_path),
        ("LEDGER_PATH", settings.ledger_path),
    ):
        if real.is_relative_to(os.path.realpath(path)):
            raise BackupError("backup-folder", f"{dest} is inside {name}: back up to another folder, preferably on another disk")
    folder, manifest = backup.back_up(settings.ledger_file, real, now=utc_now(), on_progress=on_progress)
    return folder, manifest, _noted(settings, LastBackup(manifest.position, manifest.created))


def _noted(settings: Settings, made: LastBackup) -> LedgerError | None:
    try:
        with closing(SqliteLedger(settings.ledger_file)) as ledger:
            ledger.note_backup(made)
    except LedgerError as error:
        return error
    return None
