"""What a long command could not put right: kept on disk, so that memory stays flat however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, dataclass

from storage_ledger.ledger.sqlite import translated
from storage_ledger.system.sqlalchemy_engine import sqlite


@dataclass(frozen=True, slots=True)
class Finding:
    """`path`: relative to ARCHIVE_PATH, or of a source; `position`: of the `described` that brought the file."""

    code: str
    study_id: str | None = None
    path: str | None = None
    position: int | None = None
    detail: str = ""


class Findings:
    """In a temporary database, which is gone when the process is, however that ends (sqlite.org/inmemorydb.html §3)."""

    def __init__(self) -> None:
        self._database = sqlite.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE findings (code, study_id, path, position, detail)")
        self._count = 0

    def add(self, finding: Finding) -> None:
        """One more. Raises `LedgerBusy` where there is no room for temporary files (SQLITE_TMPDIR, in compose the ledger's volume)."""
        with translated():
            self._database.execute("INSERT INTO findings VALUES (?, ?, ?, ?, ?)", astuple(finding))
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Finding]:
        with closing(self._database.execute("SELECT code, study_id, path, position, detail FROM findings ORDER BY rowid")) as rows:
            for code, study_id, path, position, detail in rows:
                yield Finding(code, study_id, path, position, detail)

    def close(self) -> None:
        """Forget them."""
        self._database.close()
