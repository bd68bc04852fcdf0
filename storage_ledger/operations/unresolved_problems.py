"""The problems that a long command could not fix, kept on disk so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, dataclass

from storage_ledger.system.sqlite import errors_mapped, sqlite


@dataclass(frozen=True, slots=True)
class Problem:
    """One file or study that could not be fixed.

    `path`: relative to ARCHIVE_PATH, or a path in a source; `position`: of the file's `described` entry.
    """

    code: str
    study_id: str | None = None
    path: str | None = None
    position: int | None = None
    detail: str = ""


class Problems:
    """A list in a temporary database that disappears with the process, even if it is killed (sqlite.org/inmemorydb.html §3)."""

    def __init__(self) -> None:
        self._database = sqlite.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE problems (code, study_id, path, position, detail)")
        self._count = 0

    def add(self, problem: Problem) -> None:
        """Append a problem. Raises `LedgerBusy` if temporary files have no space (SQLITE_TMPDIR, in compose the ledger volume)."""
        with errors_mapped():
            self._database.execute("INSERT INTO problems VALUES (?, ?, ?, ?, ?)", astuple(problem))
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Problem]:
        with closing(self._database.execute("SELECT code, study_id, path, position, detail FROM problems ORDER BY rowid")) as rows:
            for code, study_id, path, position, detail in rows:
                yield Problem(code, study_id, path, position, detail)

    def close(self) -> None:
        """Discard the list."""
        self._database.close()
