"""The SQLite library of this process, by itself: whoever only reads needs no SQLAlchemy, and starts in a tenth of its time.

One library for all files of the process: two SQLite libraries on one file drop each other's POSIX locks
(sqlite.org/howtocorrupt.html §2.2.1).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

sqlite: ModuleType
try:
    sqlite = importlib.import_module("pysqlite3.dbapi2")
except ImportError:  # no wheel for this platform: the standard library's, in the safe mode if it needs that
    sqlite = importlib.import_module("sqlite3")

# Without an adapter of its own each None that is bound is asked whether it could adapt itself, which fails twice: 1 µs each, where
# a row of 37 texts takes 2. This one is a function in C that gives None for None.
sqlite.register_adapter(type(None), {}.get)

BUSY_TIMEOUT_S = 30.0


def _takes_json_for_harmless() -> bool:
    """Whether an untrusted schema may use JSON functions, as the ledger's index over uploads does. SQLite 3.40 forbids it."""
    with closing(sqlite.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE entries (payload)")
            connection.execute("CREATE INDEX of_upload ON entries (json_extract(payload, '$.upload_path'))")
        except sqlite.OperationalError:
            return False
        return True


TRUSTED_SCHEMA = "OFF" if _takes_json_for_harmless() else "ON"
"""What functions a file's own schema may call: those that harm nobody, where the library knows that JSON's are among them."""


def quoted(path: Path) -> str:
    """For an SQLite URI."""
    return os.fspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def is_regular(path: Path) -> bool:
    """Whether there is an SQLite file that may be opened: of a FIFO in its place, or in that of its log, opening never ends."""
    return path.is_file() and all(beside.is_file() or not os.path.lexists(beside) for beside in beside_of(path))


def beside_of(path: Path) -> list[Path]:
    """What SQLite keeps beside a file while it is open, or after a crash."""
    return [Path(f"{path}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def fetched(connection: Any, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """All rows. A text that is no UTF-8 comes as `as_it_is` gives it: one flipped bit must not hide all others."""
    try:
        rows: list[Any] = connection.execute(sql, values).fetchall()
    except sqlite.OperationalError as error:
        if not is_undecodable(error):
            raise
        with texts_as_they_are(connection):
            rows = connection.execute(sql, values).fetchall()
    return rows


def is_undecodable(error: Exception) -> bool:
    """Whether the driver has met a text that is no UTF-8. It has no code of its own."""
    return isinstance(error, sqlite.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def as_it_is(raw: bytes) -> str:
    """Bytes that are no UTF-8 become lone surrogates, and do not fail."""
    return raw.decode("utf-8", "surrogateescape")


@contextmanager
def texts_as_they_are(connection: Any) -> Iterator[None]:
    """Read texts by `as_it_is`, at a call of Python for each."""
    before = connection.text_factory
    connection.text_factory = as_it_is
    try:
        yield
    finally:
        connection.text_factory = before
