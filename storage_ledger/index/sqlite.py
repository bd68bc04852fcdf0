"""index.db: follows the ledger by position, in its own transactions, and makes itself anew when it does not fit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, NoResultFound

from storage_ledger import logs
from storage_ledger.core.entries import Entry
from storage_ledger.errors import LedgerBusy, LedgerError, LedgerUnusable
from storage_ledger.index.rows import StudyRows
from storage_ledger.index.tables import INDEXES, SCHEMA, SEARCH, SEARCHED, TABLES, arrived, forget, learn, refresh, year
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.engine import driver, open_engine
from storage_ledger.ledger.sqlite import translated

BATCH = 500
GATHER_S = 0.1  # one batch for what belongs together: a study's entries follow each other closely
REBUILD_BATCH = 5000
SHADOW = "rebuild_"


class Index:
    """The one writer of index.db. Losing it loses nothing: `follow` makes it again from position 1."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path = path
        self._ledger = ledger
        self.position = 0
        self._open()

    def follow(self) -> int:
        """Apply what the ledger has beyond the index, one batch in one transaction. Returns how many entries."""
        entries = self._ledger.read(self.position, BATCH)
        if entries:
            with self._transaction() as connection:
                _Batch(connection, "").apply(entries, self._ledger.ledger_id)
            self.position = entries[-1].position
        return len(entries)

    def ensure(self) -> bool:
        """Rebuild it if it is missing, of another schema, of another ledger, or disagrees with this one. True if so."""
        try:
            fits = self._fits()
        except _Unreadable:
            logs.get().warning("index.unreadable")
            self._discard()
            fits = False
        if not fits:
            self.rebuild()
        return not fits

    def rebuild(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Make every table again from the ledger, into shadow tables that take the place of the old in one transaction.

        Readers see the old index until then. Returns the position that it now stands at.
        """
        last = self._ledger.last()
        logs.get().info("index.rebuild", position=last.position if last else 0)
        with self._transaction() as connection:
            for name, columns in TABLES.items():
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SHADOW}{name}")
                connection.exec_driver_sql(f"CREATE TABLE {SHADOW}{name} {columns}")
            _set_progress(connection, SHADOW, 0, self._ledger.ledger_id, b"")
        position = 0
        while entries := self._ledger.read(position, REBUILD_BATCH):
            with self._transaction() as connection:
                _Batch(connection, SHADOW, shadow=True).apply(entries, self._ledger.ledger_id)
            position = entries[-1].position
            on_progress(position)
        with self._transaction() as connection:
            self._take_over(connection)
        self.position = position
        return position

    def run(self, stop: threading.Event, bell: threading.Event) -> None:
        """Follow until `stop` is set and all is applied; `bell` rings when there is more. A broken index is made anew."""
        behind = True
        while behind or not stop.is_set():
            try:
                if self.position == 0:
                    self.ensure()
                bell.clear()
                applied = self.follow()
                behind = applied > 0
                if not behind:
                    bell.wait(1.0)
                elif applied < BATCH:
                    stop.wait(GATHER_S)
            except LedgerBusy as error:
                logs.get().warning("index.busy", code=error.code)
                stop.wait(5.0)
                behind = False
            except _Unreadable as error:
                logs.get().error("index.unreadable", error_type=type(error.__cause__).__name__)
                self._discard()
                self.position = 0
                stop.wait(1.0)

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()

    def _take_over(self, connection: Connection) -> None:
        sql = connection.exec_driver_sql
        for table in SEARCH:
            sql(f"DROP TABLE IF EXISTS {table}_fts")  # takes the tables behind it along, which cannot be dropped by themselves
        old = [row[0] for row in sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        for name in old:
            if not name.startswith(SHADOW):
                sql(f'DROP TABLE IF EXISTS "{name}"')
        for name in TABLES:
            sql(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
        for index in INDEXES:
            sql(index)
        _mark_conflicts(connection, "", "IS NOT NULL", ())
        for statement in (*refresh("", "IS NOT NULL"), arrived("")):
            sql(statement)
        for table, search in SEARCH.items():
            sql(search)
            sql(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")  # noqa: S608 - a name of ours
        sql(f"PRAGMA user_version = {SCHEMA}")

    def _fits(self) -> bool:
        with self._transaction() as connection:
            progress = _progress(connection)
        if progress is None or not _is_of(progress, self._ledger):
            return False
        self.position = progress[0]
        return True

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with translated(), self._engine.begin() as connection:
                yield connection
        except (LedgerUnusable, DatabaseError, NoResultFound) as error:
            raise _Unreadable from error

    def _open(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            self.path.chmod(0o640)
        except FileExistsError:
            pass
        self._engine = open_engine(self.path, writable=True, durable=False, pool_size=1)

    def _discard(self) -> None:
        """A file that SQLite cannot read: whoever has it open keeps the old one, the new one is made beside it."""
        self._engine.dispose()
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._open()


def standing(path: Path, ledger: Ledger) -> int | None:
    """The position at which the index stands; None where there is none that can be read and fits this ledger."""
    found = _ask(path, ledger, "SELECT 1", ())
    return None if found is None else found[0]


def studies_with_upload(path: Path, ledger: Ledger, state: str) -> tuple[int, list[str]] | None:
    """The studies with an upload in `state` (any but `archived`), at the position that comes with them. None: see `standing`."""
    sql = "SELECT DISTINCT study_id FROM uploads WHERE state = ? AND state <> 'archived'"  # as the index over it is written
    found = _ask(path, ledger, sql, (state,))
    return None if found is None else (found[0], [row[0] for row in found[1]])


def archived_from(path: Path, ledger: Ledger, upload_path: str) -> list[str]:
    """The studies for which an upload of this path is archived, as far as the index knows; it reads every upload."""
    found = _ask(path, ledger, "SELECT study_id FROM uploads WHERE upload_path = ? AND state = 'archived' LIMIT 10", (upload_path,))
    return [] if found is None else [row[0] for row in found[1]]


def _ask(path: Path, ledger: Ledger, sql: str, values: tuple[str, ...]) -> tuple[int, Sequence[Any]] | None:
    if not path.exists():
        return None
    engine = open_engine(path, writable=False, pool_size=1)
    try:
        with translated(), engine.begin() as connection:
            progress = _progress(connection)
            if progress is None or not _is_of(progress, ledger):
                return None
            return progress[0], connection.exec_driver_sql(sql, values).fetchall()
    except (LedgerError, DatabaseError, NoResultFound):
        return None  # whoever writes it will make it anew
    finally:
        engine.dispose()


def _progress(connection: Connection) -> tuple[int, str, bytes] | None:
    """How far an index of this schema has come: position, ledger_id, leaf_hash. None: of another schema."""
    sql = connection.exec_driver_sql
    if sql("PRAGMA user_version").scalar() != SCHEMA:
        return None
    row = sql("SELECT position, ledger_id, leaf_hash FROM progress").one()
    return row[0], row[1], row[2]


def _is_of(progress: tuple[int, str, bytes], ledger: Ledger) -> bool:
    position, ledger_id, leaf_hash = progress
    if ledger_id != ledger.ledger_id:
        return False
    entry = ledger.get(position)
    return not position or (entry is not None and entry.leaf_hash == leaf_hash)


class _Unreadable(Exception):
    """The index cannot be used as it is; the cause says why."""


class _Batch:
    """Entries → one transaction's worth of rows."""

    def __init__(self, connection: Connection, prefix: str, *, shadow: bool = False) -> None:
        self._connection = connection
        self._driver = driver(connection)
        self._sql = self._driver.execute
        self._prefix = prefix
        self._shadow = shadow
        self._studies: dict[str, StudyRows] = {}
        self._words: dict[str, tuple[Any, ...] | None] = {}

    def apply(self, entries: Sequence[Entry], ledger_id: str) -> None:
        for entry in entries:
            if entry.study_id is not None:
                rows = self._studies.get(entry.study_id) or self._load(entry.study_id, entry.position)
                rows.apply(entry)
        self._save()
        if not self._shadow:
            self._sql(arrived(self._prefix, entries[0].position))
        _set_progress(self._connection, self._prefix, entries[-1].position, ledger_id, entries[-1].leaf_hash)

    def _load(self, study_id: str, position: int) -> StudyRows:
        found = self._select("studies", study_id)
        self._words[study_id] = _words(found[0]) if found else None
        if found:
            uploads = {row["upload_path"]: row for row in self._select("uploads", study_id)}
            files = {row["name"]: row for row in self._select("files", study_id)}
            rows = StudyRows(found[0], uploads, files)
        else:
            rows = StudyRows.new(study_id)
            rows.study["first_position"] = position
        self._studies[study_id] = rows
        return rows

    def _select(self, table: str, study_id: str) -> list[dict[str, Any]]:
        found = self._sql(f"SELECT * FROM {self._prefix}{table} WHERE study_id = ?", (study_id,))  # noqa: S608 - names of ours
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _save(self) -> None:
        other_words = [] if self._shadow else [key for key, rows in self._studies.items() if _words(rows.study) != self._words[key]]
        for some in _chunks(other_words):
            self._sql(forget("studies", _any_of(some)), tuple(some))
        self._put("studies", [{**rows.study, "year": year(rows.study["study_date"])} for rows in self._studies.values()])
        for some in _chunks(other_words):
            self._sql(learn("studies", _any_of(some)), tuple(some))
        self._put("uploads", [rows.uploads[path] for rows in self._studies.values() for path in sorted(rows.changed_uploads)])
        changed = [rows.files[name] for rows in self._studies.values() for name in sorted(rows.changed_files)]
        self._put("files", changed)
        if self._shadow:
            return  # all at once, at the end
        sops = sorted({row["sop_instance_uid"] for row in changed if row["sop_instance_uid"]})
        uids = {row["study_instance_uid"] for row in changed if row["study_instance_uid"]}
        for some in _chunks(sops):
            uids |= _mark_conflicts(self._connection, self._prefix, _any_of(some), some)
        for some in _chunks(sorted(uids)):
            chosen = _any_of(some)
            for statement in (forget("dicom_studies", chosen), *refresh(self._prefix, chosen), learn("dicom_studies", chosen)):
                self._sql(statement, tuple(some))

    def _put(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            columns = list(rows[0])
            names = ", ".join(f'"{name}"' for name in columns)
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT OR REPLACE INTO {self._prefix}{table} ({names}) VALUES ({marks})"  # noqa: S608 - names of ours
            self._driver.executemany(statement, [tuple(row[name] for name in columns) for row in rows])


def _words(study: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(study[name] for name in SEARCHED)


def _mark_conflicts(connection: Connection, prefix: str, chosen: str, values: Sequence[str]) -> set[str]:
    """Flag files that share a SOP Instance UID but not their bytes. Returns the study UIDs that this touches."""
    conflicting = f"SELECT sop_instance_uid FROM {prefix}files WHERE sop_instance_uid {chosen} GROUP BY 1 HAVING count(DISTINCT sha256) > 1"  # noqa: S608
    found = connection.exec_driver_sql(
        f"UPDATE {prefix}files SET sop_conflict = 1 WHERE sop_conflict = 0 AND sop_instance_uid IN ({conflicting}) "  # noqa: S608
        "RETURNING study_instance_uid",
        tuple(values),
    )
    return {row[0] for row in found if row[0]}


def _set_progress(connection: Connection, prefix: str, position: int, ledger_id: str, leaf_hash: bytes) -> None:
    connection.exec_driver_sql(f"DELETE FROM {prefix}progress")  # noqa: S608 - a name of ours
    connection.exec_driver_sql(f"INSERT INTO {prefix}progress VALUES (?, ?, ?)", (position, ledger_id, leaf_hash))  # noqa: S608


def _any_of(values: Sequence[str]) -> str:
    return f"IN ({', '.join('?' * len(values))})"


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + 500] for i in range(0, len(values), 500))
