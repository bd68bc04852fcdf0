"""Brings a ledger file to the schema of this program, and makes it if there is none."""

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

HEAD = "0003"
"""The revision of the ledger's schema that this program is made for; the schema itself stands in alembic/versions/."""
SCHEMA_SQL = "SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite!_stat%' ESCAPE '!'"
"""Reads the schema, without the tables in which SQLite keeps its own statistics."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What `migrate` did. `before` is None for a ledger that it made; `backup` is the copy that it took first."""

    before: str | None
    after: str
    backup: Path | None

    @property
    def changed(self) -> bool:
        """Whether the file's schema was changed."""
        return self.before != self.after


def migrate(ledger_file: Path) -> Migration:
    """Bring `ledger_file` to `HEAD` in one transaction. A ledger that exists is copied first, to a file beside it.

    The folder is made if it is missing. A second call, or one from another process at the same time, changes nothing. Raises
    `LedgerUnusable` for a ledger newer than this program, a foreign database, a network file system, or missing scripts.
    """
    make_folder(ledger_file.parent)
    require_local(ledger_file.parent)
    with _alone(ledger_file.parent):
        make_private(ledger_file)
        before = revision_of(ledger_file)
        with errors_mapped(), closing(connect(ledger_file, writable=True)) as connection:
            if before == HEAD:
                return Migration(before, HEAD, None)
            _require_scripts()
            backup = _backup(ledger_file, before) if before is not None else None
            _upgrade(connection)
            if revision_of(ledger_file) != HEAD:  # Alembic takes scripts that it cannot list for none
                raise _without_scripts()
            return Migration(before, HEAD, backup)


def schema_as_migrated(revision: str) -> set[tuple[str, str, str]]:
    """The schema at this revision, made in memory: type, name and SQL of each table, index and trigger.

    For a revision that this program does not know it is that of `HEAD`.
    """
    with errors_mapped(), closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        _upgrade(connection, revision if revision in known_revisions() else HEAD)
        return schema_of(connection.execute(SCHEMA_SQL))


def schema_of(rows: Iterable[Any]) -> set[tuple[str, str, str]]:
    """The schema that the rows of `SCHEMA_SQL` describe."""
    return {(row[0], row[1], row[2]) for row in rows}


def make_again(ledger_file: Path, ledger_id: str) -> None:
    """Make a new, empty ledger with the id of one that was lost. `ledger_file` must not exist."""
    migrate(ledger_file)
    with closing(SqliteFile(ledger_file, writable=True)) as file, file.transaction() as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'ledger_id'", (ledger_id,))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: when two switch a new file to WAL, SQLite does not wait but fails with BUSY."""
    descriptor = os.open(folder, files.VOLUME)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        locks.unlock_and_close(descriptor)


def make_folder(folder: Path) -> None:
    """Make LEDGER_PATH if it is missing, and check that this user may write there. Raises `LedgerUnusable`."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnusable("ledger-folder", f"{folder} cannot be made: {os.strerror(error.errno or 0)}", errno=error.errno) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        text = f"user {os.geteuid()} may not write into {folder}: who owns it?"
        raise LedgerUnusable("ledger-folder", _read_only(folder) or text)


def require_writable(ledger_file: Path) -> None:
    """Check that this program and this user may append to an existing ledger. Opens nothing that this user may not write.

    Raises `LedgerUnusable` if it is missing, not writable, foreign, or newer than this program.
    """
    require_owner(ledger_file)
    revision_of(ledger_file)


def require_owner(ledger_file: Path) -> None:
    """Check that this user may append to an existing ledger, without opening it. Raises `LedgerUnusable`."""
    for path, needed in ((ledger_file.parent, os.R_OK | os.W_OK | os.X_OK), (ledger_file, os.R_OK | os.W_OK)):
        if os.access(path.parent, os.X_OK) and not path.exists():
            raise LedgerUnusable("ledger-missing", f"{path} does not exist: is LEDGER_PATH the service's?")
        if not os.access(path, needed):
            text = (
                f"user {os.geteuid()} may not write {path}, which belongs to user {path.stat().st_uid}: run this as that user "
                "(in compose: docker compose exec storage-service storage-ledger …)"
            )
            raise LedgerUnusable("ledger-not-writable", _read_only(path) or text)


def _read_only(path: Path) -> str | None:
    """What to say if the file system is read-only for everybody; None if it is a matter of permissions."""
    if os.access(path, os.R_OK) and os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} lies on a file system that is mounted read-only; a kernel does that after a disk error: see its log"
    return None


def script_folder() -> Path:
    """The folder of the migrations: inside the installed package, or at the top of the checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations" / "alembic"
    return installed if installed.is_dir() else package.parent / "alembic"


def make_private(ledger_file: Path) -> None:
    """Make the file if there is none, with mode 0640 whatever the umask: patients' data. SQLite gives -wal and -shm the same mode."""
    try:
        descriptor = os.open(ledger_file, files.CREATE, 0o640)
    except FileExistsError:
        return
    except OSError as error:
        text = os.strerror(error.errno or 0)
        who = f"Who owns the folder, and as which user does this run? (user {os.geteuid()})"
        raise LedgerUnusable("ledger-folder", f"{ledger_file} cannot be made: {text}. {who}", errno=error.errno) from error
    try:
        files.set_mode_and_owner(descriptor, ledger_file.parent, 0o640)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    files.fsync_path(ledger_file.parent)


def revision_of(ledger_file: Path) -> str | None:
    """The revision of the file's schema; None for an empty file. Changes nothing, whatever the file is.

    Raises `LedgerUnusable` if it is no ledger, or newer than this program.
    """
    with errors_mapped(), closing(sqlite.connect(ledger_file)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            return None
        if names == {"alembic_version"} and not connection.execute("SELECT 1 FROM alembic_version").fetchone():
            return None  # begun where the scripts could not be read
        if not {"alembic_version", "entries", "meta"} <= names:
            raise LedgerUnusable(
                "ledger-foreign", f"{ledger_file} is an SQLite database, but not a ledger: set LEDGER_PATH to the ledger's folder"
            )
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = row[0] if row else None
    if revision not in known_revisions():
        raise LedgerUnusable(
            "ledger-newer",
            f"the ledger is at revision {revision!r}, which this program does not know: run the version that wrote it, or a newer one",
        )
    return str(revision)


def known_revisions() -> set[str]:
    """The revisions of the ledger's schema that this program can bring to `HEAD`."""
    return {path.name.partition("_")[0] for path in (script_folder() / "versions").glob("*.py")}


def _require_scripts() -> None:
    if HEAD not in known_revisions():
        raise _without_scripts()


def _without_scripts() -> LedgerUnusable:
    text = f"{script_folder() / 'versions'} lacks scripts of this program, or user {os.geteuid()} cannot read them: install it again"
    return LedgerUnusable("migrations-missing", text)


def _upgrade(connection: Any, revision: str = "head") -> None:
    """Run the migrations by Alembic, on this connection of the driver's."""
    # Imported here: a service whose ledger is up to date does not pay for it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    from storage_ledger.system.sqlalchemy_engine import engine_on  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(script_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine_on(connection).connect() as bound:
        config.attributes["connection"] = bound
        command.upgrade(config, revision)


def _backup(ledger_file: Path, revision: str) -> Path:
    """A consistent copy beside the ledger, fsynced; made once a revision."""
    target = ledger_file.with_name(f"{ledger_file.name}.before-{revision}-to-{HEAD}")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    copy_to(ledger_file, part)
    part.replace(target)
    files.fsync_path(ledger_file.parent)
    return target
