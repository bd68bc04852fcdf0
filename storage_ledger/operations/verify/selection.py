"""The options of a verification, and the selection of the files to read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Kind
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.proof.checkpoints import LATEST
from storage_ledger.operations.verify.untrusting_reader import BelievedFile, UntrustingReader
from storage_ledger.settings import Settings
from storage_ledger.system import locks
from storage_ledger.system.sqlite import connect, is_regular, sqlite


@dataclass(frozen=True, slots=True)
class GivenNote:
    """A checkpoint from elsewhere. `name`: its file, for people; `data`: the note, or its first three lines as somebody typed them."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class VerifyPaths:
    """Where ledger, index and archive are. `serving`: returns whether `serve` is running now."""

    ledger_file: Path
    index_file: Path
    archive_root: Path
    serving: Callable[[], bool]

    @property
    def latest_checkpoint(self) -> Path:
        """The copy of the last checkpoint on the ledger's volume."""
        return self.ledger_file.with_name(LATEST)

    @classmethod
    def of(cls, settings: Settings) -> VerifyPaths:
        """Take the paths from the settings."""
        return cls(settings.ledger_file, settings.index_file, settings.archive_path, partial(locks.is_held, settings.lock_file))


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to check. `study_id`: only this study.

    `sample`: a number of files or, below 1, a fraction of them; `older_than`: only files not verified since (RFC 3339).
    `rate`: maximum bytes read per second (0: no limit). `settle_s`: how long to wait for a running service to finish what
    would look like damage. `checkpoints`: from elsewhere, beside those in the archive.
    """

    study_id: str | None = None
    sample: float | None = None
    older_than: str | None = None
    rate: float = 0.0
    settle_s: float = 10.0
    checkpoints: tuple[GivenNote, ...] = ()

    @property
    def selection(self) -> str:
        """The kind of selection as stored in `verified` entries."""
        if self.study_id is not None:
            return "study"
        if self.sample is not None:
            return "sample"
        return "older-than" if self.older_than is not None else "all"


class FileSelection:
    """Selects the files to read. `files` and `bytes`: how many there will be, according to the index; None without one."""

    def __init__(self, options: VerifyOptions, index_file: Path, reader: UntrustingReader, chance: Callable[[], float]) -> None:
        self._options = options
        self._index_file = index_file
        self._chance = chance
        self._recent = "verified_at IS NOT NULL AND verified_at >= ?"
        self.files: int | None = None
        self.bytes: int | None = None
        where, values = ("", ()) if options.older_than is None else (f" WHERE NOT ({self._recent})", (options.older_than,))
        rows = self._ask(f"SELECT count(*), coalesce(sum(bytes), 0) FROM files{where}", *values)  # noqa: S608 - constants
        if rows is not None:
            self.files, self.bytes = rows[0]
        elif options.older_than is not None:
            raise LedgerUnusable("index-missing", "--older-than needs index.db, which cannot be read: start `storage-ledger serve`")
        self._left = self.files if self.files is not None else _count(reader)
        if options.sample is not None:
            self._wanted = round(options.sample if options.sample >= 1 else options.sample * self._left)
            self._wanted = max(1, min(self._wanted, self._left))
            share = self._wanted / self._left if self._left else 0.0
            self.bytes = None if self.bytes is None else round(self.bytes * share)
            self.files = self._wanted

    def of(self, after: int, up_to: int) -> Callable[[BelievedFile], bool]:
        """Return a function that says whether to read a file between these positions; call it once per file, in order."""
        recent: set[int] = set()
        if self._options.older_than is not None:
            sql = f"SELECT position FROM files WHERE position > ? AND position <= ? AND {self._recent}"  # noqa: S608 - constants
            recent = {row[0] for row in self._ask(sql, after, up_to, self._options.older_than) or []}

        def take(file: BelievedFile) -> bool:
            if file.position in recent:
                return False
            return self._options.sample is None or self._draw()

        return take

    def _draw(self) -> bool:
        """Draw exactly the wanted number of files, each with equal probability (Knuth, TAOCP 3.4.2, algorithm S)."""
        if self._wanted <= 0:
            return False
        drawn = self._chance() * max(self._left, 1) < self._wanted
        self._left -= 1
        self._wanted -= drawn
        return drawn

    def _ask(self, sql: str, *values: Any) -> list[Any] | None:
        if not is_regular(self._index_file):
            return None
        try:
            with closing(connect(self._index_file)) as connection:
                return list(connection.execute(sql, values))
        except sqlite.Error:
            return None


def _count(reader: UntrustingReader) -> int:
    return int(reader.sql("SELECT count(*) FROM entries WHERE kind = ?", Kind.ARCHIVED.value)[0][0])
