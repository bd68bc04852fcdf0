"""index.db as a file: opened when first needed, reopened when it was replaced, discarded when SQLite cannot use it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from storage_ledger.errors import LedgerBusy
from storage_ledger.system import locks, logs
from storage_ledger.system.files import chown_like_folder
from storage_ledger.system.sqlite import SqliteFile, beside_of, is_regular, sqlite

PAGE_BYTES = 8_192
"""Page size of a new file. Compared with 4,096 a rebuild takes 5% less time, but following an entry writes 50% more."""

T = TypeVar("T")


class IndexUnreadable(Exception):
    """The index cannot be used and must be rebuilt. `__cause__` says why."""


class IndexUnwritable(LedgerBusy):
    """The index cannot be read or written at the moment: disk full, locked, or an I/O error."""


class IndexFile:
    """The index.db that this process writes. Other processes may have it open too.

    Whatever fails while it is written is raised as `IndexUnreadable`, `IndexUnwritable`, an `OSError` or `MemoryError`, or the ledger's
    own error if the ledger was read through `of_ledger`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sqlite: SqliteFile | None = None  # opened when first needed: the service must start even if this fails
        self._opened: tuple[int, int] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Yield a connection in a transaction that holds the write lock from the start."""
        with errors_translated(), self._open_file().transaction() as connection:
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield a connection outside any transaction: always the same one, so temporary tables and the cache size persist."""
        with errors_translated(), self._open_file().connection() as connection:
            yield connection

    def is_replaced(self) -> bool:
        """Return whether the path no longer names the open file: it is gone, another file, or not a regular file."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._opened or not is_regular(self.path)

    def reopen(self) -> None:
        """Open the file that is at the path now, or a new empty one."""
        self.close()
        self._open()

    def discard(self) -> None:
        """Replace a file that SQLite cannot use with a new, empty one. Processes that have the old file open keep using it."""
        with self._alone():
            if not self.is_replaced() or self.path.is_file():
                self.close()
                _remove(self.path, *beside_of(self.path))
        self.reopen()

    def close(self) -> None:
        """Close the file; it is reopened when next needed."""
        if self._sqlite is not None:
            self._sqlite.close()

    def _alone(self) -> AbstractContextManager[int]:
        """Hold a lock: of two processes that find no file, one could otherwise remove what the other has just created."""
        return locks.held(self.path.with_name("index-file.lock"), "create index.db", waits=lambda _: None)

    def _open_file(self) -> SqliteFile:
        return self._sqlite or self._open()

    def _open(self) -> SqliteFile:
        if not self.path.is_file():
            with self._alone():
                if not self.path.is_file():
                    _remove(self.path, *beside_of(self.path))  # logs of a deleted file: with them, SQLite could not use a new one
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
                    self.path.chmod(0o640)
                    chown_like_folder(self.path, self.path.parent)
        for path in beside_of(self.path):
            if _is_odd(path):  # not ours, and opening a FIFO would block
                _remove(path)
        status = self.path.stat()
        self._opened = (status.st_dev, status.st_ino)
        self._sqlite = SqliteFile(self.path, writable=True, durable=False, page_bytes=PAGE_BYTES, keep=1)
        return self._sqlite


@contextmanager
def errors_translated() -> Iterator[None]:
    """Translate exceptions as documented in `IndexFile`."""
    try:
        yield
    except (IndexUnreadable, IndexUnwritable):
        raise
    except _OfTheLedger as error:
        raise error.__cause__ or error from None
    except (OSError, MemoryError):  # a problem with the machine: a rebuild would not help
        raise
    except LedgerBusy as error:
        raise IndexUnwritable(error.code, f"index.db: {error.detail}", errno=error.errno) from error
    except Exception as error:  # including an entry that this program cannot read: a rebuild skips it
        raise IndexUnreadable from error


def of_ledger(read: Callable[[], T]) -> T:
    """Return what `read` returns. If it fails while the index is being written, `errors_translated` passes the ledger's error on unchanged.

    Errors of the driver or the machine are not the ledger's: the ledger maps its own to `StorageLedgerError`.
    """
    try:
        return read()
    except (sqlite.Error, OSError):
        raise
    except Exception as error:
        raise _OfTheLedger from error


class _OfTheLedger(Exception):
    """Reading the ledger failed; a rebuild would not help. `__cause__` says why."""


def _is_odd(path: Path) -> bool:
    """Return whether something other than a regular file is there. A missing one is not odd: SQLite may create it at any moment."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _remove(*paths: Path) -> None:
    """Remove files; rename folders, because their contents are not ours."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            free = next(each for n in count(1) if not os.path.lexists(each := path.with_name(f"{path.name}.set-aside-{n}")))
            path.rename(free)
            logs.get().warning("index.folder-set-aside")
        else:
            path.unlink(missing_ok=True)
