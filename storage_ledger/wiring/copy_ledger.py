"""Wires `storage-ledger copy-ledger`, `follow`, and the local copy of a ledger in PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from storage_ledger.errors import BadSettings, LedgerUnusable, Locked
from storage_ledger.index.follower import Index
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.ledger.copying import LedgerCopy
from storage_ledger.ledger.local_copy import LocalCopy, opened_copy
from storage_ledger.ledger.migrate import make_again, make_folder
from storage_ledger.ledger.sql_ledger import SqlLedger
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.settings import Settings
from storage_ledger.system import locks, logs
from storage_ledger.wiring.ledgers import opened, postgres_at
from storage_ledger.wiring.stores import UMASK, serve_lock_held


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What was copied. `moved`: the target is in use from now on; otherwise a service still appends to the source."""

    position: int
    root: bytes
    moved: bool


def copy_ledger(settings: Settings, to: str, on_progress: Callable[[str, int, int], None]) -> CopyResult:
    """Copy the ledger to another engine and, unless `serve` is running, let it continue there.

    `to`: `postgresql+psycopg://…` or `sqlite:///PATH`. It must be empty or an earlier copy. Every entry is checked against its hashes,
    and the Merkle roots of both are compared before anything is marked. May be called again after a kill at any point.
    Raises `BadSettings`, `LedgerError`; `LedgerUnusable` (`copy-disagrees`) if the target is not a copy of this ledger.
    """
    os.umask(UMASK)
    with closing(_source(settings, to)) as source, _target(source, to) as target:
        copy = LedgerCopy(source, target)
        last = source.last()
        total = last.position if last else 0
        while copy.follow():
            on_progress("copied", copy.position, total)
        try:
            with locks.held(settings.lock_file, "copy-ledger"):
                return _finished(copy, target, to, lambda done: on_progress("checked", done, copy.position))
        except Locked:
            root = _same_root(copy, lambda done: on_progress("checked", done, copy.position))
            return CopyResult(copy.position, root, moved=False)


def _finished(copy: LedgerCopy, target: SqlLedger, to: str, on_progress: Callable[[int], None]) -> CopyResult:
    while copy.follow():
        pass
    root = _same_root(copy, on_progress)
    copy.finish(address_of(to))
    with target.write() as tx:
        tx.note_moved(None)
    return CopyResult(copy.position, root, moved=True)


def _same_root(copy: LedgerCopy, on_progress: Callable[[int], None]) -> bytes:
    ours, theirs = copy.roots(on_progress)
    if ours != theirs:
        raise LedgerUnusable("copy-disagrees", f"the Merkle roots at position {copy.position} differ: one of the two is damaged")
    return theirs


def _source(settings: Settings, to: str) -> SqlLedger:
    if settings.ledger_url is not None:
        if is_postgres(to):
            raise BadSettings("bad-settings", "LEDGER_URL is set, and --to is PostgreSQL, too: use the database's own tools for that")
        return postgres_at(settings.ledger_address, is_copy=True)
    if not is_postgres(to):
        raise BadSettings("bad-settings", "the ledger is in SQLite, and --to, too: use `storage-ledger backup`")
    return SqliteLedger(settings.ledger_file, is_copy=True)


@contextmanager
def _target(source: SqlLedger, to: str) -> Iterator[SqlLedger]:
    if is_postgres(to):
        from storage_ledger.ledger import postgres_migrate  # noqa: PLC0415 - an extra

        postgres_migrate.migrate(to)
        postgres_migrate.take_id(to, source.ledger_id)
        target: SqlLedger = postgres_at(to, is_copy=True)
    else:
        file = Path(to.removeprefix("sqlite://"))
        make_folder(file.parent)
        if not file.exists():
            make_again(file, source.ledger_id)
        target = SqliteLedger(file, is_copy=True)
    with closing(target):
        yield target


def is_postgres(address: str) -> bool:
    """Return whether an address is that of a PostgreSQL database. Raises `BadSettings` if it is of neither engine."""
    if address.startswith(("postgresql://", "postgresql+psycopg://")):
        return True
    if address.startswith("sqlite:///"):
        return False
    raise BadSettings("bad-settings", "--to: must be postgresql+psycopg://… or sqlite:///PATH")


def address_of(to: str) -> str:
    """Return an address without its password."""
    if not is_postgres(to):
        return to
    parts = urlsplit(to)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def local_copy(settings: Settings, on_moved: Callable[[], None] = lambda: None) -> LocalCopy:
    """Open the local copy of the ledger in PostgreSQL, made if it is missing. Raises `LedgerUnusable`."""
    ledger = opened(settings)
    return LocalCopy(ledger, opened_copy(settings.ledger_file, ledger.ledger_id, address_of(settings.ledger_url or "")), on_moved)


def catch_up(settings: Settings) -> None:
    """If the ledger is in PostgreSQL, bring its local copy up to date, for a command that reads it."""
    if settings.ledger_url is None:
        return
    os.umask(UMASK)
    with closing(local_copy(settings)) as copy:
        copy.catch_up()


def follow(settings: Settings, stop: threading.Event) -> None:
    """Keep the local copy of the ledger, and its index, up to date until `stop` is set; then return.

    Raises `BadSettings` if the ledger is not in PostgreSQL, `Locked` if `serve` runs here, which does the same, `LedgerError`.
    """
    if settings.ledger_url is None:
        raise BadSettings("bad-settings", "`follow` keeps a copy of a ledger in PostgreSQL: set LEDGER_URL")
    logs.configure(settings.log_level, environment=settings.environment)
    copied, moved, indexes = threading.Event(), threading.Event(), threading.Event()
    with serve_lock_held(settings), closing(local_copy(settings, indexes.set)) as copy:
        index = Index(settings.index_file, copy.ledger, command="follow", processes=RebuildProcesses.of(settings.ledger_file))
        copies = threading.Thread(target=copy.run, args=(stop, moved), name="copy")
        follows = threading.Thread(target=index.run, args=(copied, indexes), name="index")
        for thread in (copies, follows):
            thread.start()
        logs.get().info("follow.started", position=copy.position)
        copies.join()
        copied.set()
        indexes.set()
        follows.join()
        index.close()
        logs.get().info("follow.stopped", position=copy.position)
