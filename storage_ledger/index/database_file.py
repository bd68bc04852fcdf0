"""index.db as a file: opened when it is first needed, noticed when somebody replaces it, thrown away when SQLite cannot use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from storage_ledger.errors import LedgerBusy
from storage_ledger.system import logs
from storage_ledger.system.files import chown_like_folder
from storage_ledger.system.sqlite import SqliteFile, beside_of, is_regular, sqlite

PAGE_BYTES = 8_192
"""Of a new file: a rebuild takes a twentieth less time than with 4,096, and an entry that is followed writes half as much again."""

T = TypeVar("T")


class IndexUnreadable(Exception):
    """The index cannot be used as it is: it has to be rebuilt. The cause says why."""


class IndexUnwritable(LedgerBusy):
    """The index cannot be read or written just now: full, locked, or an I/O error."""


class IndexFile:
    """One index.db, written by this process; several processes may each have one.

    Whatever fails while it is written is raised as one of four: `IndexUnreadable`, `IndexUnwritable`, an `OSError` or
    `MemoryError` of the machine, or, of a ledger that is read through `of_ledger`, the ledger's own error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sqlite: SqliteFile | None = None  # opened when it is first needed: a file that cannot be opened is no reason not to start
        self._opened: tuple[int, int] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A connection inside a transaction that holds the write lock from the beginning."""
        with judged(), self._open_file().transaction() as connection:
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection outside of any transaction. It is the same one each time: temporary tables and cache size stay."""
        with judged(), self._open_file().connection() as connection:
            yield connection

    def is_replaced(self) -> bool:
        """Whether the name leads to another file than the one that is open, or to none, or to one that nobody else can open."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._opened or not is_regular(self.path)

    def reopen(self) -> None:
        """Open the file that has the name now; where there is none, a new and empty one."""
        self.close()
        if not self.path.exists():
            _remove(*beside_of(self.path))  # they belong to the file that is gone
        self._open()

    def discard(self) -> None:
        """Put a new and empty file in the place of one that SQLite cannot use. Whoever has the old one open keeps it."""
        if not self.is_replaced() or self.path.is_file():
            self.close()
            _remove(self.path, *beside_of(self.path))
        self.reopen()

    def close(self) -> None:
        """Release the file; it is opened again when it is needed again."""
        if self._sqlite is not None:
            self._sqlite.close()

    def _open_file(self) -> SqliteFile:
        return self._sqlite or self._open()

    def _open(self) -> SqliteFile:
        for path in (self.path, *beside_of(self.path)):
            if not path.is_file() and os.path.lexists(path):  # not ours; of a FIFO, opening would never end
                _remove(path)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            self.path.chmod(0o640)
            chown_like_folder(self.path, self.path.parent)
        except FileExistsError:
            pass
        status = self.path.stat()
        self._opened = (status.st_dev, status.st_ino)
        self._sqlite = SqliteFile(self.path, writable=True, durable=False, page_bytes=PAGE_BYTES, keep=1)
        return self._sqlite


@contextmanager
def judged() -> Iterator[None]:
    """Raise what fails as `IndexFile` says."""
    try:
        yield
    except (IndexUnreadable, IndexUnwritable):
        raise
    except _OfTheLedger as error:
        raise error.__cause__ or error from None
    except (OSError, MemoryError):  # of the machine: no other index would help
        raise
    except LedgerBusy as error:
        raise IndexUnwritable(error.code, f"index.db: {error.detail}", errno=error.errno) from error
    except Exception as error:  # also of an entry that this program cannot read: a rebuild leaves it out
        raise IndexUnreadable from error


def of_ledger(read: Callable[[], T]) -> T:
    """What `read` returns. Where it fails while the index is written, the ledger's error passes `judged` as it is.

    An error of the driver or the machine is not the ledger's: that one's errors are mapped to ours.
    """
    try:
        return read()
    except (sqlite.Error, OSError):
        raise
    except Exception as error:
        raise _OfTheLedger from error


class _OfTheLedger(Exception):
    """Reading the ledger failed, and no other index would help. The cause says why."""


def _remove(*paths: Path) -> None:
    """Remove files, and rename folders: what lies in them is not ours."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            free = next(each for n in count(1) if not os.path.lexists(each := path.with_name(f"{path.name}.set-aside-{n}")))
            path.rename(free)
            logs.get().warning("index.folder-set-aside")
        else:
            path.unlink(missing_ok=True)
