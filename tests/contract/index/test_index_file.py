"""index.db as a file that several processes open, and that may be missing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from storage_ledger.index import database_file
from storage_ledger.index.database_file import IndexFile


def test_whoever_opens_a_missing_file_at_the_same_time_has_the_same_one(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / str(number) / "index.db"
        path.parent.mkdir()
        together = threading.Barrier(4)

        def write(path: Path = path, together: threading.Barrier = together) -> None:
            file = IndexFile(path)
            together.wait()
            with file.transaction() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS written (x)")
                connection.execute("INSERT INTO written VALUES (1)")
            file.close()

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        file = IndexFile(path)
        with file.connection() as connection:
            assert connection.execute("SELECT count(*) FROM written").fetchone()[0] == 4
        file.close()


def test_a_log_that_is_not_there_yet_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may create it between the look and the removal: its SQLite would then report an I/O error."""
    path = tmp_path / "index.db"
    file = IndexFile(path)
    file.reopen()
    file.close()
    removed: list[Path] = []
    monkeypatch.setattr(database_file, "_remove", lambda *paths: removed.extend(paths))
    file.reopen()
    assert removed == []
    file.close()
    os.mkfifo(tmp_path / "index.db-wal")
    file = IndexFile(path)
    file.reopen()
    assert removed == [tmp_path / "index.db-wal"]
