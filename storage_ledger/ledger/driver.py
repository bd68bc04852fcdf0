"""The SQLite library of this process, by itself: whoever only reads needs no SQLAlchemy, and starts in a tenth of its time.

One library for all files of the process: two SQLite libraries on one file drop each other's POSIX locks
(sqlite.org/howtocorrupt.html §2.2.1).
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

sqlite: ModuleType
try:
    sqlite = importlib.import_module("pysqlite3.dbapi2")
except ImportError:  # no wheel for this platform: the standard library's, in the safe mode if it needs that
    sqlite = importlib.import_module("sqlite3")

BUSY_TIMEOUT_S = 30.0


def quoted(path: Path) -> str:
    """For an SQLite URI."""
    return os.fspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
