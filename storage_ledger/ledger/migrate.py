"""Creates a ledger file, or migrates it to the schema of this program."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.snapshot import copy_to
from storage_ledger.system import files, locks
from storage_ledger.system.sqlite import SqliteFile, connect, errors_mapped, sqlite
from storage_ledger.system.sqlite_file_systems import require_local

HEAD = "0004"
"""The schema revision that this program needs; alembic/versions/ has the schema."""
SCHEMA_SQL = "SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite!_stat%' ESCAPE '!'"
"""Reads the schema, without SQLite's own statistics tables."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What `migrate` did. `before` is None for a new ledger; `backup` is the copy made before the migration."""

    before: str | None
    after: str
    backup: Path | None

    @property
    def changed(self) -> bool:
        """Whether the file's schema was changed."""
        return self.before != self.after


def migrate(ledger_file: Path) -> Migration:
    """Migrate `ledger_file` to `HEAD` in one transaction. An existing ledger is first copied to a file beside it.

    Creates a missing folder and file. A second call, also from another process at the same time, changes nothing. Raises
    `LedgerUnusable` if the ledger is newer than this program, foreign, or on a network file system, or if scripts are missing.
    """
    make_folder(ledger_file.parent)
    require_local(ledger_file.parent)
    with _alone(ledger_file.parent):
        make_private(ledger_file)
        before = revision_of(ledger_file)
        with errors_mapped(), closing(connect(ledger_file, writable=True)) as connection:
            if before == HEAD:
                return Migration(before, HEAD, None)
            require_scripts()
            backup = _backup(ledger_file, before) if before is not None else None
            _upgrade(connection)
            if revision_of(ledger_file) != HEAD:  # Alembic ignores scripts that it cannot list
                raise _without_scripts()
            return Migration(before, HEAD, backup)


def schema_as_migrated(revision: str) -> set[tuple[str, str, str]]:
    """Return the schema at this revision, built in memory: type, name and SQL of each table, index and trigger.

    For an unknown revision, that of `HEAD`.
    """
    with errors_mapped(), closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        _upgrade(connection, revision if revision in known_revisions() else HEAD)
        return schema_of(connection.execute(SCHEMA_SQL))


def schema_of(rows: Iterable[Any]) -> set[tuple[str, str, str]]:
    """Return the schema from the rows of `SCHEMA_SQL`."""
    return {(row[0], row[1], row[2]) for row in rows}


def make_again(ledger_file: Path, ledger_id: str) -> None:
    """Create an empty ledger with the id of a lost one. `ledger_file` must not exist."""
    migrate(ledger_file)
    with closing(SqliteFile(ledger_file, writable=True)) as file, file.transaction() as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'ledger_id'", (ledger_id,))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process in at a time: if two switch a new file to WAL, SQLite fails with BUSY instead of waiting."""
    descriptor = os.open(folder, files.VOLUME)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        locks.unlock_and_close(descriptor)


def make_folder(folder: Path) -> None:
    """Create LEDGER_PATH if it is missing, and check that this user may write there. Raises `LedgerUnusable`."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnusable("ledger-folder", f"{folder} cannot be created: {os.strerror(error.errno or 0)}", errno=error.errno) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        text = f"user {os.geteuid()} may not write into {folder}; check its owner and mode"
        raise LedgerUnusable("ledger-folder", _read_only(folder) or text)


def require_writable(ledger_file: Path) -> None:
    """Check that this program and this user may append to an existing ledger. Opens no file that this user may not write.

    Raises `LedgerUnusable` if it is missing, not writable, foreign, or newer than this program.
    """
    require_owner(ledger_file)
    revision_of(ledger_file)


def require_owner(ledger_file: Path) -> None:
    """Check that this user may append to an existing ledger, without opening it. Raises `LedgerUnusable`."""
    for path, needed in ((ledger_file.parent, os.R_OK | os.W_OK | os.X_OK), (ledger_file, os.R_OK | os.W_OK)):
        if os.access(path.parent, os.X_OK) and not path.exists():
            raise LedgerUnusable("ledger-missing", f"{path} does not exist; use the service's LEDGER_PATH")
        if not os.access(path, needed):
            text = (
                f"user {os.geteuid()} may not write {path}, which belongs to user {path.stat().st_uid}: run this as that user "
                "(in compose: docker compose exec storage-service storage-ledger …)"
            )
            raise LedgerUnusable("ledger-not-writable", _read_only(path) or text)


def _read_only(path: Path) -> str | None:
    """Return the error text if the file system is mounted read-only; None if permissions are the cause."""
    if os.access(path, os.R_OK) and os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is on a file system that is mounted read-only, often after a disk error: check the kernel log"
    return None


def script_folder() -> Path:
    """Return the folder of the migrations, in the installed package or the checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations" / "alembic"
    return installed if installed.is_dir() else package.parent / "alembic"


def make_private(ledger_file: Path) -> None:
    """Create the file if it is missing, with mode 0640 whatever the umask. SQLite gives -wal and -shm the same mode."""
    try:
        descriptor = os.open(ledger_file, files.CREATE, 0o640)
    except FileExistsError:
        return
    except OSError as error:
        text = os.strerror(error.errno or 0)
        who = f"Check the folder's owner; this runs as user {os.geteuid()}"
        raise LedgerUnusable("ledger-folder", f"{ledger_file} cannot be created: {text}. {who}", errno=error.errno) from error
    try:
        files.set_mode_and_owner(descriptor, ledger_file.parent, 0o640)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    files.fsync_path(ledger_file.parent)


def revision_of(ledger_file: Path) -> str | None:
    """Return the schema revision of a file; None if it is empty. Changes nothing.

    Raises `LedgerUnusable` if it is not a ledger, or newer than this program.
    """
    with errors_mapped(), closing(sqlite.connect(ledger_file)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            return None
        if names == {"alembic_version"} and not connection.execute("SELECT 1 FROM alembic_version").fetchone():
            return None  # left by a migration that could not read the scripts
        if not {"alembic_version", "entries", "meta"} <= names:
            raise LedgerUnusable(
                "ledger-foreign", f"{ledger_file} is an SQLite database, but not a ledger: set LEDGER_PATH to the ledger's folder"
            )
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = row[0] if row else None
    if revision not in known_revisions():
        raise LedgerUnusable(
            "ledger-newer",
            f"the ledger is at revision {revision!r}, which this program does not know; run the version that wrote it, or a newer one",
        )
    return str(revision)


def known_revisions() -> set[str]:
    """Return the schema revisions that this program can migrate to `HEAD`."""
    return {path.name.partition("_")[0] for path in (script_folder() / "versions").glob("*.py")}


def require_scripts() -> None:
    """Check that the migrations are there. Raises `LedgerUnusable`."""
    if HEAD not in known_revisions():
        raise _without_scripts()


def _without_scripts() -> LedgerUnusable:
    text = f"{script_folder() / 'versions'} lacks migrations of this program, or user {os.geteuid()} cannot read them: reinstall it"
    return LedgerUnusable("migrations-missing", text)


def _upgrade(connection: Any, revision: str = "head") -> None:
    """Run the migrations on this driver connection."""
    # Imported here, so that a service with a current ledger does not pay for it.
    from storage_ledger.system.sqlalchemy_engine import engine_on  # noqa: PLC0415

    with engine_on(connection).connect() as bound:
        run_scripts(bound, revision)


def run_scripts(connection: Any, revision: str = "head") -> None:
    """Run the migrations with Alembic on this connection of SQLAlchemy's."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(script_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _backup(ledger_file: Path, revision: str) -> Path:
    """Make a consistent, fsynced copy beside the ledger, one for each revision."""
    target = ledger_file.with_name(f"{ledger_file.name}.before-{revision}-to-{HEAD}")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    copy_to(ledger_file, part)
    part.replace(target)
    files.fsync_path(ledger_file.parent)
    return target
