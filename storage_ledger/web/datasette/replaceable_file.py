"""A database file that may be replaced while it is read: `serve` replaces an unusable index.db."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage_ledger.system.sqlite import is_regular, sqlite


class ReplaceableFile:
    """A connection of one thread, opened again after the file was replaced. Anything but a regular file is never opened."""

    def __init__(self, path: Path, connect: Callable[[], Any]) -> None:
        self._path = path
        self._connect = connect
        self._connection: Any = None
        self._file: tuple[int, int] | None = None

    def connection(self) -> Any:
        """Return a connection to the file that has this name now. Raises the driver's `OperationalError` if there is none."""
        if not is_regular(self._path):  # opening a FIFO would never end
            raise sqlite.OperationalError("unable to open database file")
        status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if self._file != file:
            if self._connection is not None:
                self._connection.close()
                self._connection = self._file = None
            self._connection, self._file = self._connect(), file
        return self._connection
