"""A Datasette database whose file may be replaced while it is shown: `serve` replaces an unusable index.db."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasette.database import Database  # type: ignore[import-untyped] # it ships no types

from storage_ledger.system.sqlite import is_regular, sqlite


class ReplaceableDatabase(Database):  # type: ignore[misc] # untyped, as above
    """Each thread reopens the file after it was replaced. Anything but a regular file is an error and is never opened."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._mine = threading.local()

    async def execute_fn(self, fn: Callable[[Any], Any]) -> Any:
        """Call `fn` with a connection to the file that has this name now, in one of Datasette's threads."""

        def in_thread() -> Any:
            return fn(self._connection())

        return await asyncio.get_running_loop().run_in_executor(self.ds.executor, in_thread)

    def _connection(self) -> Any:
        path = Path(self.path)
        if not is_regular(path):  # opening a FIFO would never end
            raise sqlite.OperationalError("unable to open database file")
        status = path.stat()
        file = (status.st_dev, status.st_ino)
        if getattr(self._mine, "file", None) != file:
            if (before := getattr(self._mine, "connection", None)) is not None:
                self._all_file_connections.remove(before)
                before.close()
                del self._mine.connection
            connection = self.connect()
            self.ds._prepare_connection(connection, self.name)  # noqa: SLF001 - as Datasette does for its own
            self._mine.connection, self._mine.file = connection, file
        return self._mine.connection
