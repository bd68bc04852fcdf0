"""Opens SQLite files safely and maps the driver's errors, for ledger and index.

The process uses one SQLite library for all files: two libraries on one file drop each other's POSIX locks
(sqlite.org/howtocorrupt.html §2.2.1).
"""

from __future__ import annotations

import errno as errnos
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from storage_ledger.errors import LedgerBusy, LedgerError, LedgerRefused, LedgerUnusable

sqlite: ModuleType
try:
    sqlite = importlib.import_module("pysqlite3.dbapi2")
except ImportError:  # no wheel for this platform: use the standard library's, in the safe mode if needed
    sqlite = importlib.import_module("sqlite3")

# Without an adapter, the driver asks each bound None twice to adapt itself: 1 µs each, where a row of 37 texts takes 2 µs. This adapter
# is a C function that returns None for None.
sqlite.register_adapter(type(None), {}.get)

BUSY_TIMEOUT_S = 30.0
KEEP_IDLE = 6
OLDEST_SUPPORTED = (3, 35, 0)
RESTORE = "Check the disk, then restore the ledger: `storage-ledger restore --from-mirror --force`"


class SqliteFile:
    """One SQLite file, for any number of threads. Maps every driver error to ours (`errors_mapped`).

    The file is opened on first use, and must exist unless `writable`. A thread has a connection to itself during its `with` block; up
    to `keep` idle connections are kept. `functions`: Python functions for its statements, by name; their result depends only on their
    arguments. For `durable` and `page_bytes` see `connect`.
    """

    def __init__(
        self,
        path: Path,
        *,
        writable: bool,
        durable: bool = True,
        page_bytes: int | None = None,
        keep: int = KEEP_IDLE,
        functions: Mapping[str, Callable[..., object]] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self._writable = writable
        self._durable = durable
        self._page_bytes = page_bytes
        self._keep = keep
        self._functions = functions
        self._idle: list[Any] = []  # append and pop are atomic; the last used one is taken first

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend a connection outside any transaction: each statement is its own transaction, and each read sees one snapshot."""
        with errors_mapped():
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def transaction(self, *, within_s: float = BUSY_TIMEOUT_S) -> Iterator[Any]:
        """Lend a connection in a transaction, committed when the `with` block ends and rolled back if it raises.

        On a writable file it holds the write lock from the beginning, so that what it has read is still true when it writes; it waits
        `within_s` for other writers, then raises `LedgerBusy`. On a read-only file, the transaction sees one snapshot.
        """
        with self.connection() as connection:
            if within_s != BUSY_TIMEOUT_S:
                _set_busy_timeout(connection, within_s)
            try:
                connection.execute("BEGIN IMMEDIATE" if self._writable else "BEGIN")
                yield connection
                connection.commit()
            finally:
                if connection.in_transaction:
                    connection.rollback()
                if within_s != BUSY_TIMEOUT_S:
                    _set_busy_timeout(connection, BUSY_TIMEOUT_S)

    def close(self) -> None:
        """Close idle connections now, and those in use when they are returned."""
        self._keep = 0
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            connection = connect(self.path, writable=self._writable, durable=self._durable, page_bytes=self._page_bytes)
            for name, function in self._functions.items():
                connection.create_function(name, -1, function, deterministic=True)
            return connection

    def _give_back(self, connection: Any) -> None:
        if len(self._idle) < self._keep and not connection.in_transaction:  # one that could not be rolled back is useless
            self._idle.append(connection)
        else:
            connection.close()


def connect(path: Path, *, writable: bool = False, durable: bool = True, page_bytes: int | None = None) -> Any:
    """Open a driver connection, which begins no transaction by itself and may move between threads.

    With `durable`, a commit survives a power cut once it returns: WAL with synchronous=FULL, or, on a library with the WAL-reset bug, a
    rollback journal with synchronous=EXTRA. Raises `LedgerUnusable` if either did not take effect, and the driver's errors. A
    connection that is not `writable` cannot write. `page_bytes` sets the page size of an empty file; the default is SQLite's.
    """
    version = tuple(sqlite.sqlite_version_info)
    if version < OLDEST_SUPPORTED:
        raise LedgerUnusable("sqlite-too-old", f"SQLite {sqlite.sqlite_version}; at least 3.35 is needed: install pysqlite3")
    uri = f"file:{quoted(path)}?mode={'rwc' if writable else 'ro'}"
    connection = sqlite.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA trusted_schema = {TRUSTED_SCHEMA}")
        if writable:
            _make_safe(connection, wal=wal_is_safe(version), durable=durable, page_bytes=page_bytes)
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _make_safe(connection: Any, *, wal: bool, durable: bool, page_bytes: int | None) -> None:

    def one(sql: str) -> object:
        row = connection.execute(sql).fetchone()
        return row[0] if row else None

    if page_bytes is not None:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
    wanted = "wal" if wal else "delete"
    if one("PRAGMA journal_mode") != wanted and (got := one(f"PRAGMA journal_mode = {wanted}")) != wanted:
        raise LedgerUnusable("sqlite-journal-mode", f"journal_mode is {got!r}, {wanted!r} is needed; another process may have it open")
    level = (2 if wal else 3) if durable else 1
    connection.execute(f"PRAGMA synchronous = {level}")
    if one("PRAGMA synchronous") != level:
        raise LedgerUnusable("sqlite-synchronous", f"synchronous is {one('PRAGMA synchronous')}, {level} is needed")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync does not reach the disk
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    # If SQLite cannot open a file for writing, even once, it silently opens it for reading: such a connection would be kept and would
    # refuse every later write.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA user_version = 0")  # BEGIN alone succeeds; this is refused, or rolled back
    connection.execute("ROLLBACK")


def _set_busy_timeout(connection: Any, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Return whether this SQLite is free of the WAL-reset bug (sqlite.org/wal.html: fixed in 3.51.3, 3.50.7, 3.44.6)."""
    return version >= (3, 51, 3) or (version[:2] == (3, 50) and version >= (3, 50, 7)) or (version[:2] == (3, 44) and version >= (3, 44, 6))


def _takes_json_for_harmless() -> bool:
    """Return whether an untrusted schema may use JSON functions, as the ledger's index on uploads does. SQLite 3.40 forbids it."""
    with closing(sqlite.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE entries (payload)")
            connection.execute("CREATE INDEX of_upload ON entries (json_extract(payload, '$.upload_path'))")
        except sqlite.OperationalError:
            return False
        return True


TRUSTED_SCHEMA = "OFF" if _takes_json_for_harmless() else "ON"
"""OFF: a file's schema may only call harmless functions. ON for a library that does not count JSON functions as harmless."""


@contextmanager
def errors_mapped() -> Iterator[None]:
    """Map every driver error of the `with` block to ours: see `as_ours`."""
    try:
        yield
    except sqlite.Error as error:
        raise as_ours(error) from error


def as_ours(error: Exception) -> LedgerError:
    """Map a driver error to one of ours; the only place that does.

    Full, busy and I/O errors can be retried (`LedgerBusy`); damage and foreign files cannot (`LedgerUnusable`). The rest is a trigger
    or constraint that fired, a missing table, or a bug (`LedgerRefused`).
    """
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name.startswith("SQLITE_FULL"):
        return LedgerBusy("ledger-full", "the ledger's volume is full: nothing was recorded", errno=errnos.ENOSPC)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return LedgerBusy("ledger-busy", f"another process has held the write lock too long ({name})")
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return LedgerBusy("ledger-io", f"the ledger cannot be read or written ({name})", errno=errnos.EIO)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return LedgerUnusable("ledger-damaged", f"SQLite says {name}. {RESTORE}")
    return LedgerRefused("ledger-refused", f"SQLite refuses a statement ({name})")


def quoted(path: Path) -> str:
    """Return the path quoted for an SQLite URI."""
    return os.fspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def is_regular(path: Path) -> bool:
    """Return whether SQLite may open the file. Opening a FIFO, also one with the name of its WAL, would never return."""
    return path.is_file() and all(beside.is_file() or not os.path.lexists(beside) for beside in beside_of(path))


def beside_of(path: Path) -> list[Path]:
    """Return the paths of SQLite's own files beside a database, while it is open or after a crash."""
    return [Path(f"{path}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def fetched(connection: Any, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """Return all rows. Bytes that are not UTF-8 become lone surrogates: one flipped bit must not hide the other rows."""
    try:
        rows: list[Any] = connection.execute(sql, values).fetchall()
    except sqlite.OperationalError as error:
        if not is_undecodable(error):
            raise
        with texts_as_they_are(connection):
            rows = connection.execute(sql, values).fetchall()
    return rows


def is_undecodable(error: Exception) -> bool:
    """Return whether the driver encountered text that is not UTF-8. That error has no code."""
    return isinstance(error, sqlite.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def as_it_is(raw: bytes) -> str:
    """Decode bytes; those that are not UTF-8 become lone surrogates instead of an error."""
    return raw.decode("utf-8", "surrogateescape")


@contextmanager
def texts_as_they_are(connection: Any) -> Iterator[None]:
    """Decode texts with `as_it_is`, at the cost of a Python call for each."""
    before = connection.text_factory
    connection.text_factory = as_it_is
    try:
        yield
    finally:
        connection.text_factory = before
