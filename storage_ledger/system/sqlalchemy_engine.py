"""Opens SQLite files the one safe way; ledger and index both come through here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from storage_ledger.errors import LedgerUnusable
from storage_ledger.system.sqlite import BUSY_TIMEOUT_S, TRUSTED_SCHEMA, as_it_is
from storage_ledger.system.sqlite import quoted as quoted  # noqa: PLC0414 - whoever opens files here has them from here, too
from storage_ledger.system.sqlite import sqlite as sqlite  # noqa: PLC0414 - the same

OLDEST_SUPPORTED = (3, 35, 0)
NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.sshfs",
    "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
})  # fmt: skip


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug (sqlite.org/wal.html: fixed in 3.51.3, 3.50.7, 3.44.6)."""
    return version >= (3, 51, 3) or (version[:2] == (3, 50) and version >= (3, 50, 7)) or (version[:2] == (3, 44) and version >= (3, 44, 6))


def check_place(folder: Path) -> None:
    """Refuse a file system on which SQLite's locks or its shared memory do not hold. Linux only; elsewhere unknown."""
    kind = _file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerUnusable(
            "ledger-on-network-file-system",
            f"{folder} lies on {kind}: SQLite is not safe there. Set LEDGER_PATH to a folder on a local disk.",
        )


def open_engine(path: Path, *, writable: bool, durable: bool = True, pool_size: int = 4, page_bytes: int | None = None) -> Engine:
    """An engine on `path`, which must exist unless `writable`.

    A writable one begins every transaction with BEGIN IMMEDIATE, so that what a transaction reads is still so when it
    writes. With `durable`, a commit that returned survives a power cut: WAL with synchronous=FULL, or, on a library with
    the WAL-reset bug, a rollback journal with synchronous=EXTRA. Both are read back; `LedgerUnusable` if they did not take.
    Readers begin deferred and cannot write. `page_bytes`: of a file that is still empty; SQLite's own default otherwise.
    """
    version = tuple(sqlite.sqlite_version_info)
    if version < OLDEST_SUPPORTED:
        raise LedgerUnusable("sqlite-too-old", f"SQLite {sqlite.sqlite_version}; at least 3.35 is needed: install pysqlite3")
    wal = wal_is_safe(version)
    mode = "rwc" if writable else "ro"
    uri = f"file:{quoted(path)}?mode={mode}"

    def connect() -> Any:
        connection = sqlite.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _prepare(connection, writable=writable, durable=durable, wal=wal, page_bytes=page_bytes)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite://",
        module=sqlite,
        creator=connect,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=8,
        hide_parameters=True,
    )
    begin = "BEGIN IMMEDIATE" if writable else "BEGIN"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def driver(connection: Connection) -> Any:
    """The driver's own connection, inside the transaction of SQLAlchemy's: for the statements that run for every event.

    SQLAlchemy makes the connections, the transactions and the schema; a statement through it costs ten times its work in
    SQLite (benchmarks/RESULTS.md).
    """
    return connection.connection.driver_connection


def hold_raw(engine: Engine) -> Any:
    """One connection of the pool, to be closed by who takes it; `driver_connection` is the driver's own.

    Its texts are as they are: see `as_it_is`.
    """
    held: Any = engine.raw_connection()
    held.driver_connection.text_factory = as_it_is
    return held


def _prepare(connection: Any, *, writable: bool, durable: bool, wal: bool, page_bytes: int | None) -> None:

    def one(sql: str) -> object:
        row = connection.execute(sql).fetchone()
        return row[0] if row else None

    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA trusted_schema = {TRUSTED_SCHEMA}")
    if not writable:
        connection.execute("PRAGMA query_only = ON")
        return
    if page_bytes is not None:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
    wanted = "wal" if wal else "delete"
    if one("PRAGMA journal_mode") != wanted and (got := one(f"PRAGMA journal_mode = {wanted}")) != wanted:
        raise LedgerUnusable("sqlite-journal-mode", f"journal_mode is {got!r}, {wanted!r} is needed; another process may hold the file")
    level = (2 if wal else 3) if durable else 1
    connection.execute(f"PRAGMA synchronous = {level}")
    if one("PRAGMA synchronous") != level:
        raise LedgerUnusable("sqlite-synchronous", f"synchronous is {one('PRAGMA synchronous')}, {level} is needed")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync does not reach the disk
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    # A file that could not be opened for writing, if only this once, SQLite opens for reading and says nothing: such a
    # connection in the pool would refuse every write from now on.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA user_version = 0")  # the beginning alone succeeds; this is refused, or taken back
    connection.execute("ROLLBACK")


def _file_system(folder: Path) -> str | None:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(folder)
    best, kind = "", None
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
