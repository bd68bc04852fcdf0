"""Opens ledger and mirror for a command that reads or appends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from storage_ledger.errors import ARCHIVE_MISSING, LedgerBusy, LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.migrate import make_folder
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.settings import Settings
from storage_ledger.system import locks, logs
from storage_ledger.system.files import FolderId
from storage_ledger.wiring.ledgers import opened, require_writable

UMASK = 0o027  # new files are not readable for others: they hold patient data


@contextmanager
def reading(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger for a command that reads it, or appends while the service runs."""
    ledger = opened(settings)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def appending(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger for a command that appends; `serve` may be running.

    Raises `LedgerUnusable`, before it opens anything, if this user may not write the ledger: SQLite would create files beside
    it that belong to this user and lock the service out.
    """
    require_writable(settings)
    with reading(settings) as ledger, mirror_caught_up(settings, ledger):
        yield ledger


@contextmanager
def mirror_caught_up(settings: Settings, ledger: Ledger) -> Iterator[None]:
    """Check that the mirror belongs to this ledger; after the block, append the new entries to it. Raises `LedgerUnusable`.

    If the archive is not accessible, the entries are in the ledger alone until `serve` mirrors them.
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
def serve_lock_held(settings: Settings) -> Iterator[int]:
    """Hold `serve.lock` for `serve`; yield its descriptor. Raises `Locked`."""
    os.umask(UMASK)
    make_folder(settings.ledger_path)
    with locks.held(settings.lock_file, "serve") as descriptor:
        yield descriptor


@contextmanager
def repair_lock_held(settings: Settings, command: str, *, beside_serve: bool = False) -> Iterator[None]:
    """Hold `repair.lock` for a command that writes into the archive, and `serve.lock` unless it may run `beside_serve`.

    Raises `Locked`.
    """
    os.umask(UMASK)
    make_folder(settings.ledger_path)
    with ExitStack() as stack:
        stack.enter_context(locks.held(settings.repair_lock_file, command))
        if not beside_serve:
            stack.enter_context(locks.held(settings.lock_file, command))
        yield


def mirror_of(settings: Settings, ledger: Ledger) -> Mirror:
    """Return the mirror, not yet opened or checked."""
    return Mirror(settings.archive_path, settings.mirror_lock_file, ledger)


def joined_mirror(settings: Settings, ledger: Ledger, on_recognised: Callable[[FolderId], None]) -> Mirror:
    """Open and check the mirror. `on_recognised` gets the folder that is the archive, each time it is found.

    Raises `LedgerUnusable` if the mirror is missing, another ledger's, ahead of this one, or contradicts it.
    """
    mirror = Mirror(
        settings.archive_path,
        settings.mirror_lock_file,
        ledger,
        on_recognised=lambda root: on_recognised(FolderId(root.device, root.inode)),
    )
    mirror.begin()
    try:
        mirror.check()
    except Retryable as error:
        if error.code == ARCHIVE_MISSING:  # not mounted, and nothing has been changed yet
            raise LedgerUnusable("mirror-missing", f"{error.detail}. Is the archive's volume mounted?", errno=error.errno) from error
        logs.get().error("mirror.failed", code=error.code, errno=error.errno)  # an outage: mirroring continues when the volume is back
    return mirror
