"""Ledger and mirror, opened for a command that reads or appends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import ARCHIVE_MISSING, LedgerBusy, LedgerUnusable, Retryable
from storage_ledger.ledger.migrate import make_folder, require_writable
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.settings import Settings
from storage_ledger.system import locks, logs
from storage_ledger.system.files import FolderId

UMASK = 0o027  # nothing that this process makes is for everybody: patients' data


@contextmanager
def reading(settings: Settings) -> Iterator[SqliteLedger]:
    """The ledger, for a command that reads it, or appends while the service runs."""
    ledger = SqliteLedger(settings.ledger_file)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def appending(settings: Settings) -> Iterator[SqliteLedger]:
    """The ledger, for a command that appends a person's decision; `serve` may run meanwhile.

    Raises `LedgerUnusable`, before anything is opened, for a user who could not write: what SQLite puts beside the file
    would be that user's, and would lock the service out.
    """
    require_writable(settings.ledger_file)
    with reading(settings) as ledger, mirror_caught_up(settings, ledger):
        yield ledger


@contextmanager
def mirror_caught_up(settings: Settings, ledger: SqliteLedger) -> Iterator[None]:
    """Around appends: check that the mirror is this ledger's, and bring it up to date afterwards. Raises `LedgerUnusable`.

    Where the archive cannot be reached the entries stand in the ledger alone, until `serve` follows.
    """
    mirror = mirror_of(settings, ledger)
    mirror.begin()
    with suppress(Retryable):
        mirror.check()
    try:
        yield
    finally:
        with suppress(Retryable, LedgerBusy):
            mirror.catch_up()


@contextmanager
def serve_lock_held(settings: Settings, command: str) -> Iterator[None]:
    """Hold `serve.lock`, for a command that writes what `serve` writes. Raises `Locked`."""
    os.umask(UMASK)
    make_folder(settings.ledger_path)
    with locks.held(settings.lock_file, command):
        yield


def mirror_of(settings: Settings, ledger: SqliteLedger) -> Mirror:
    """The mirror, not yet opened or checked."""
    return Mirror(settings.archive_path, settings.mirror_lock_file, ledger)


def joined_mirror(settings: Settings, ledger: SqliteLedger, archive: FilesystemArchive) -> Mirror:
    """The mirror, checked to be this ledger's. Raises `LedgerUnusable` if it is another's, ahead, contradicts it, or is missing."""
    mirror = Mirror(
        settings.archive_path,
        settings.mirror_lock_file,
        ledger,
        on_recognised=lambda root: archive.recognise(FolderId(root.device, root.inode)),
    )
    mirror.begin()
    try:
        mirror.check()
    except Retryable as error:
        if error.code == ARCHIVE_MISSING:  # not mounted, and we know it before anything is done
            raise LedgerUnusable("mirror-missing", f"{error.detail}. Is the archive's volume mounted?", errno=error.errno) from error
        logs.get().error("mirror.failed", code=error.code, errno=error.errno)  # an outage: it goes on when the volume does
    return mirror
