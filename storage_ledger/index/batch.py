"""Entries → tables: each entry is checked, folded into its study's rows, and what changed is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from storage_ledger import logs
from storage_ledger.core.entries import Entry, Kind, faults
from storage_ledger.index import fixity
from storage_ledger.index.rows import Row, StudyRows
from storage_ledger.index.tables import ROWID, SEARCHED, arrived, conflicts, forget, learn, refresh, year
from storage_ledger.ledger.engine import driver

WRITE_STUDIES = 2_000
KEEP_STUDIES = 2_000
KEEP_ROWS = 20  # of one study: a larger one is read again when it is needed


class Batch:
    """Applies entries to the tables with this prefix; the caller begins and ends the transaction.

    `anew`: the tables are being made anew. Then there are no indexes and no search yet, what is made from `files` is made by
    the caller at the end, and some studies stay in memory from one call to the next (`keep`, but no large one; the one longest
    unused goes first); the others are read again when they are needed. What `verified` entries say is applied by the caller at
    the end, too: `verified` has their positions. `damaged`: how many entries it left out.
    """

    def __init__(self, prefix: str = "", *, anew: bool = False, keep: int = KEEP_STUDIES) -> None:
        self._prefix = prefix
        self._anew = anew
        self._keep = keep if anew else 0
        self.damaged = 0
        self.verified: list[int] = []
        self._studies: dict[str, StudyRows] = {}
        self._changed: dict[str, StudyRows] = {}
        self._words: dict[str, tuple[Any, ...] | None] = {}

    def apply(self, connection: Connection, entries: Iterable[Entry], ledger_id: str) -> int | None:
        """Fold them in, in order; on return what came of it is in the tables, and `progress` says so. None if there were none.

        An entry that is not what its hashes say is left out: nobody knows what was recorded there. `damaged` names it.
        Returns the position of the last one.
        """
        first: int | None = None
        last: Entry | None = None
        damaged: list[tuple[int, str]] = []
        for last in entries:
            first = first or last.position
            if found := faults(last):
                damaged.append((last.position, found[0]))
            elif last.kind == Kind.VERIFIED:
                self._verified(connection, last)
            elif last.study_id is not None:
                self._fold(connection, last, last.study_id)
        self._write(connection)
        if damaged:
            self.damaged += len(damaged)
            logs.get().error("index.entry-damaged", position=damaged[0][0], code=damaged[0][1], count=len(damaged))
            driver(connection).executemany(f"INSERT OR REPLACE INTO {self._prefix}damaged VALUES (?, ?)", damaged)  # noqa: S608 - a name of ours
        if last is None or first is None:
            return None
        if not self._anew:
            driver(connection).execute(arrived(self._prefix, first))
        set_progress(connection, self._prefix, last.position, ledger_id, last.leaf_hash)
        return last.position

    def _verified(self, connection: Connection, entry: Entry) -> None:
        if self._anew:
            self.verified.append(entry.position)
        else:
            self._write(connection)
            fixity.apply(driver(connection).execute, entry)

    def _fold(self, connection: Connection, entry: Entry, study_id: str) -> None:
        rows = self._studies.pop(study_id, None) or self._load(connection, entry, study_id)
        self._studies[study_id] = self._changed[study_id] = rows  # the last one is the one last used
        rows.apply(entry)
        if len(self._changed) >= WRITE_STUDIES:
            self._write(connection)

    def _load(self, connection: Connection, entry: Entry, study_id: str) -> StudyRows:
        """The study as the tables have it. Before its first entry they have nothing."""
        found = [] if entry.version == 1 else self._select(connection, "studies", study_id)
        self._words[study_id] = _words(found[0]) if found else None
        if found:
            uploads = {row["upload_path"]: row for row in self._select(connection, "uploads", study_id)}
            files = {row["name"]: row for row in self._select(connection, "files", study_id)}
            return StudyRows(found[0], uploads, files)
        rows = StudyRows.new(study_id)
        rows.study["first_position"] = entry.position
        return rows

    def _select(self, connection: Connection, table: str, study_id: str) -> list[Row]:
        found = driver(connection).execute(f"SELECT * FROM {self._prefix}{table} WHERE study_id = ?", (study_id,))  # noqa: S608 - names of ours
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _write(self, connection: Connection) -> None:
        changed = self._changed.values()
        sql = driver(connection).execute
        for rows in changed:
            rows.study["year"] = year(rows.study["study_date"])
        other_words = [] if self._anew else [key for key, rows in self._changed.items() if _words(rows.study) != self._words[key]]
        for some in _chunks(other_words):
            sql(forget("studies", any_of(some)), tuple(some))
        self._put(connection, "studies", [rows.study for rows in changed])
        for some in _chunks(other_words):
            sql(learn("studies", any_of(some)), tuple(some))
        self._put(connection, "uploads", [rows.uploads[path] for rows in changed for path in sorted(rows.changed_uploads)])
        files = [rows.files[name] for rows in changed for name in sorted(rows.changed_files)]
        self._put(connection, "files", files)
        if not self._anew:
            self._refresh(connection, files)
        for study_id, rows in self._changed.items():
            rows.changed_files.clear()
            rows.changed_uploads.clear()
            if len(rows.files) + len(rows.uploads) > KEEP_ROWS:
                del self._studies[study_id]
        self._changed.clear()
        self._words.clear()
        for study_id in list(islice(self._studies, max(0, len(self._studies) - self._keep))):
            del self._studies[study_id]

    def _refresh(self, connection: Connection, changed: Iterable[Row]) -> None:
        sql = driver(connection).execute
        sops = sorted({row["sop_instance_uid"] for row in changed if row["sop_instance_uid"]})
        uids = {row["study_instance_uid"] for row in changed if row["study_instance_uid"]}
        for some in _chunks(sops):
            uids |= {row[0] for row in sql(conflicts(self._prefix, any_of(some)), tuple(some)).fetchall() if row[0]}
        for some in _chunks(sorted(uids)):
            chosen = any_of(some)
            for statement in (forget("dicom_studies", chosen), *refresh(self._prefix, chosen), learn("dicom_studies", chosen)):
                sql(statement, tuple(some))

    def _put(self, connection: Connection, table: str, rows: Sequence[Row]) -> None:
        if rows:
            columns = list(rows[0])
            keys = [*([ROWID[table]] if table in ROWID else []), *columns]
            names = ", ".join(f'"{name}"' for name in [*(["rowid"] if table in ROWID else []), *columns])
            statement = f"INSERT OR REPLACE INTO {self._prefix}{table} ({names}) VALUES ({', '.join('?' * len(keys))})"  # noqa: S608 - names of ours
            driver(connection).executemany(statement, map(itemgetter(*keys), rows))


def set_progress(connection: Connection, prefix: str, position: int, ledger_id: str, leaf_hash: bytes) -> None:
    """How far the tables with this prefix have come."""
    sql = driver(connection).execute
    sql(f"DELETE FROM {prefix}progress")  # noqa: S608 - a name of ours
    sql(f"INSERT INTO {prefix}progress VALUES (?, ?, ?)", (position, ledger_id, leaf_hash))  # noqa: S608 - the same


def any_of(values: Sequence[str]) -> str:
    """A condition for so many values."""
    return f"IN ({', '.join('?' * len(values))})"


def _words(study: Row) -> tuple[Any, ...]:
    return tuple(study[name] for name in SEARCHED)


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + 500] for i in range(0, len(values), 500))
