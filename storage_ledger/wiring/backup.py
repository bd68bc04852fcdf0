"""Wires `storage-ledger backup` from the settings."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path

from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.signed_note import MOST_BYTES
from storage_ledger.errors import BackupError, CheckpointRefused, LedgerError
from storage_ledger.ledger.proof.checkpoints import LATEST
from storage_ledger.operations import backup
from storage_ledger.settings import Settings
from storage_ledger.system import files
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.copy_ledger import catch_up
from storage_ledger.wiring.ledgers import opened, require_writable
from storage_ledger.wiring.stores import UMASK


def back_up(
    settings: Settings, dest: Path, on_progress: backup.BackupProgress, *, with_key: bool = False
) -> tuple[Path, backup.Manifest, LedgerError | None]:
    """Back up the ledger into `dest`, whether or not `serve` is running, and note the backup in the ledger.

    The last value says why it could not be noted; the backup is complete nevertheless. Raises `BackupError`, `LedgerError`, `Locked`;
    and `CheckpointRefused` if there is no key, or this user may not read it.
    """
    os.umask(UMASK)
    catch_up(settings)
    require_writable(settings)
    real = Path(os.path.realpath(dest))
    for name, path in (
        ("UPLOADS_PATH", settings.uploads_path),
        ("ARCHIVE_PATH", settings.archive_path),
        ("LEDGER_PATH", settings.ledger_path),
    ):
        if real.is_relative_to(os.path.realpath(path)):
            raise BackupError("backup-folder", f"{dest} is inside {name}: back up to another folder, preferably on another disk")
    key = _key(settings.checkpoint_key) if with_key else None
    note = _latest_note(settings.ledger_path)
    folder, manifest = backup.back_up(settings.ledger_file, real, now=utc_now(), note=note, key=key, on_progress=on_progress)
    return folder, manifest, _noted(settings, LastBackup(manifest.position, manifest.created))


def _latest_note(ledger_path: Path) -> bytes | None:
    with suppress(OSError), files.opened(ledger_path, files.VOLUME) as folder:
        return files.read_file(LATEST, folder, MOST_BYTES)
    return None


def _key(path: Path) -> bytes:
    try:
        with files.opened(path.parent, files.VOLUME) as folder:
            return files.read_file(path.name, folder, backup.MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise CheckpointRefused("checkpoint-key-missing", f"{path} is missing: there is no key to back up") from error
    except OSError as error:
        raise CheckpointRefused("checkpoint-key-unreadable", f"{path}: {os.strerror(error.errno or 0)}", errno=error.errno) from error


def _noted(settings: Settings, made: LastBackup) -> LedgerError | None:
    try:
        with closing(opened(settings)) as ledger:
            ledger.note_backup(made)
    except LedgerError as error:
        return error
    return None
