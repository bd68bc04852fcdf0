"""Settings → the ledger's engine: SQLite in LEDGER_PATH, or PostgreSQL at LEDGER_URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from storage_ledger.errors import BadSettings
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.ledger import migrate as sqlite_migrate
from storage_ledger.ledger.contract import Commit
from storage_ledger.ledger.migrate import Migration
from storage_ledger.ledger.sql_ledger import SqlLedger
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.settings import Settings

if TYPE_CHECKING:
    from storage_ledger.ledger.postgres import PostgresLedger


def migrated(settings: Settings) -> Migration:
    """Create the ledger if it is missing, or migrate it. Raises `LedgerUnusable`, `LedgerBusy`."""
    if settings.ledger_url is None:
        return sqlite_migrate.migrate(settings.ledger_file)
    require_driver()
    from storage_ledger.ledger import postgres_migrate  # noqa: PLC0415 - an extra

    return postgres_migrate.migrate(settings.ledger_address)


def opened(settings: Settings, on_commit: Callable[[Commit], None] = lambda _: None, *, term: str | None = None) -> SqlLedger:
    """Open the ledger. `term`: see `PostgresLedger`. Raises `LedgerUnusable`, `LedgerBusy`."""
    if settings.ledger_url is None:
        return SqliteLedger(settings.ledger_file, on_commit=on_commit)
    return postgres_at(settings.ledger_address, on_commit, term=term)


def postgres_at(
    url: str, on_commit: Callable[[Commit], None] = lambda _: None, *, is_copy: bool = False, term: str | None = None
) -> PostgresLedger:
    """Open a ledger in PostgreSQL. `is_copy`: see `SqlLedger`, `term`: see `PostgresLedger`."""
    require_driver()
    from storage_ledger.ledger.postgres import PostgresLedger  # noqa: PLC0415 - an extra

    return PostgresLedger(url, on_commit=on_commit, is_copy=is_copy, term=term)


@contextmanager
def term_held(settings: Settings) -> Iterator[str | None]:
    """Be the only `serve` on this ledger; yield the term, None for SQLite. Raises `Locked`, `LedgerError`."""
    if settings.ledger_url is None:
        yield None
        return
    from storage_ledger.ledger import postgres_serving  # noqa: PLC0415 - an extra

    with postgres_serving.term_held(settings.ledger_address) as term:
        yield term


def require_writable(settings: Settings) -> None:
    """Check that this user may append, before anything is opened. Raises `LedgerUnusable`. PostgreSQL itself says no."""
    if settings.ledger_url is None:
        sqlite_migrate.require_writable(settings.ledger_file)


def rebuild_processes(settings: Settings) -> RebuildProcesses | None:
    """Return the processes that fold a large SQLite ledger into an index; from PostgreSQL, one process reads it."""
    return RebuildProcesses.of(settings.ledger_file) if settings.ledger_url is None else None


def require_driver() -> None:
    """Check that the extra `postgres` is installed. Raises `BadSettings`."""
    try:
        import psycopg  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        text = "LEDGER_URL needs psycopg, which the extra `postgres` brings: pip install 'psycopg[binary]'"
        raise BadSettings("bad-settings", text) from error


def require_sqlite(settings: Settings, command: str) -> None:
    """Refuse a command that writes ledger.db, if the ledger is in PostgreSQL. Raises `BadSettings`."""
    if settings.ledger_url is not None:
        text = f"LEDGER_URL is set, and `storage-ledger {command}` writes SQLite only: run it without, then `storage-ledger copy-ledger`"
        raise BadSettings("bad-settings", text)
