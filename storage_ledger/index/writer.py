"""Entries → tables: checks each entry, folds it into its study's rows and writes the changed rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any

from typing_extensions import override

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.search_text import Described, search_text
from storage_ledger.domain.study import State
from storage_ledger.errors import LedgerUnusable
from storage_ledger.index import fixity
from storage_ledger.index.columns import FILE, STUDY, FileRow, Row, StudyRow, UploadRow
from storage_ledger.index.derived_tables import COUNT_ARRIVAL, COUNT_ARRIVALS, DROP_EMPTY_ARRIVALS, refresh, year
from storage_ledger.index.rows import OtherUploads, StudyRows
from storage_ledger.index.schema import COLUMNS, ROWID, SEARCHED
from storage_ledger.index.search import put_into_search, take_out_of_search

NOT_UNDERSTOOD = "entry-not-understood"
WRITE_STUDIES = 2_000
WRITE_ENTRIES = 10_000
KEEP_STUDIES = 2_000
KEEP_ROWS = 20  # of one study; a larger study is re-read when needed


class IndexWriter(ABC):
    """Applies entries to the tables of an index; the caller begins and ends the transaction. `connection`: the driver's.

    `damaged` lists position and fault of the entries that were left out.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.damaged: list[tuple[int, str]] = []
        self._studies: dict[str, StudyRows] = {}  # in memory, least recently used first
        self._changed: dict[str, StudyRows] = {}  # since the last write
        self._first = 1  # position of the first entry since the last write
        self._headers_read_again: list[tuple[FileRow, FileRow]] = []  # files as they were, and as they are

    def apply(self, entries: Iterable[Entry]) -> Entry | None:
        """Fold in the entries in order and write everything that follows from them. Returns the last one, or None if there are none."""
        first = last = None
        unwritten = 0
        verified = Kind.VERIFIED
        for last in entries:
            if first is None:
                first = last
            if not unwritten:
                self._first = last.position
            if found := faults(last):
                self.damaged.append((last.position, found[0]))
            elif last.kind == verified:
                if not fixity.is_understood(last):
                    self.damaged.append((last.position, NOT_UNDERSTOOD))
                elif self._apply_verified(last):
                    unwritten = 0
                    continue
            elif last.study_id is not None:
                self._fold(last, last.study_id)
            unwritten += 1
            if unwritten == WRITE_ENTRIES or len(self._changed) == WRITE_STUDIES:
                self._write()
                unwritten = 0
        self._write()
        self._connection.executemany("INSERT OR REPLACE INTO damaged VALUES (?, ?)", self.damaged)
        if first is not None:
            self._count_arrivals(first.position)
        return last

    @abstractmethod
    def _apply_verified(self, entry: Entry) -> bool:
        """Apply a `verified` entry. Returns whether this also wrote all earlier changes."""

    @abstractmethod
    def _fold(self, entry: Entry, study_id: str) -> None:
        """Fold an entry into the rows of its study."""

    @abstractmethod
    def _write_studies(self, rows: list[StudyRow]) -> None:
        """Write changed rows of `studies`."""

    @abstractmethod
    def _refresh(self, files: list[FileRow], before: list[tuple[FileRow, FileRow]]) -> None:
        """Update what is derived from `files`. `before`: old and new row of each file whose header was re-read."""

    @abstractmethod
    def _count_arrivals(self, first: int) -> None:
        """Update `arrivals` with all entries of `apply`; `first` is the position of the first one."""

    @property
    def _keep(self) -> int:
        """The number of studies that may stay in memory after a write."""
        return 0

    def _write(self) -> None:
        changed = self._changed.values()
        for rows in changed:
            rows.study[STUDY.year] = year(rows.study[STUDY.study_date])
            rows.study[STUDY.search_text] = search_text(_described(rows.study))
        self._write_studies([rows.study for rows in changed])
        self._put("uploads", [rows.uploads[path] for rows in changed for path in sorted(rows.changed_uploads)])
        files = [rows.files[name] for rows in changed for name in sorted(rows.changed_files)]
        self._put("files", files)
        before = [(row, rows.files[name].copy()) for rows in changed for name, row in rows.before.items()]
        self._headers_read_again += before
        self._refresh(files, before)
        for study_id, rows in self._changed.items():
            rows.forget_changes()
            if len(rows.files) + len(rows.uploads) > KEEP_ROWS:
                del self._studies[study_id]
        self._changed.clear()
        for study_id in list(islice(self._studies, max(0, len(self._studies) - self._keep))):
            del self._studies[study_id]

    def _put(self, table: str, rows: Sequence[Row[Any]]) -> None:
        self._connection.executemany(_UPSERT[table], rows)

    def _count_other_modalities(self, first: int) -> bool:
        """Recount files that arrived before these entries and whose modality has changed. Returns whether there were any."""
        any_changed = False
        for before, after in self._headers_read_again:
            if after[FILE.position] < first and before[FILE.modality] != after[FILE.modality]:
                any_changed = True
                for row, sign in ((before, -1), (after, 1)):
                    values = (row[FILE.archived_at][:10], row[FILE.modality] or "", sign, sign * row[FILE.bytes])
                    self._connection.execute(COUNT_ARRIVAL, values)
        self._headers_read_again.clear()
        return any_changed


class FollowingWriter(IndexWriter):
    """Applies new entries to a complete index. `get` returns the ledger's entry at a position."""

    def __init__(self, connection: Any, get: Callable[[int], Entry | None]) -> None:
        super().__init__(connection)
        self._get = get
        self._words_before: dict[str, tuple[Any, ...] | None] = {}  # by study: the words that find it; None if it is new

    @override
    def _apply_verified(self, entry: Entry) -> bool:
        self._write()
        fixity.apply(self._connection.execute, entry)
        return True

    @override
    def _fold(self, entry: Entry, study_id: str) -> None:
        rows = self._studies.pop(study_id, None) or self._load(entry, study_id)
        self._studies[study_id] = self._changed[study_id] = rows
        if rows.others is not None:
            self._read_files(rows, study_id, entry)
        if (position := rows.needs(entry)) is not None:
            described = self._get(position) if position < entry.position else None
            rows.add_message(position, None if described is None or faults(described) else described)
        rows.apply(entry)

    def _load(self, entry: Entry, study_id: str) -> StudyRows:
        """Return the study's rows as they were before this entry."""
        studies = [] if entry.version == 1 else self._select("studies", study_id)
        if not studies:
            self._words_before[study_id] = None
            return _new_rows(study_id, entry.position)
        self._words_before[study_id] = _words(studies[0])
        rows = StudyRows(studies[0])
        rows.others = _UploadsInTable(self._connection, study_id, rows.uploads)
        return rows

    def _read_files(self, rows: StudyRows, study_id: str, entry: Entry) -> None:
        for name in rows.names(entry):
            if name not in rows.files and (found := self._select("files", study_id, "AND name = ?", name)):
                rows.files[name] = found[0]

    def _select(self, table: str, study_id: str, further: str = "", *values: str) -> list[Any]:
        sql = f"SELECT * FROM {table} WHERE study_id = ? {further}"  # noqa: S608 - our own names
        return list(map(list, self._connection.execute(sql, (study_id, *values))))

    @override
    def _write_studies(self, rows: list[StudyRow]) -> None:
        other_words = [study_id for study_id, each in self._changed.items() if _words(each.study) != self._words_before[study_id]]
        take_out_of_search(self._connection, "studies", other_words)
        self._put("studies", rows)
        put_into_search(self._connection, "studies", other_words)
        self._words_before.clear()

    @override
    def _refresh(self, files: list[FileRow], before: list[tuple[FileRow, FileRow]]) -> None:
        stale = {uid for rows in self._changed.values() for uid, position in rows.stale if position < self._first}
        refresh(self._connection, self._first, files, before, stale)

    @override
    def _count_arrivals(self, first: int) -> None:
        if self._count_other_modalities(first):
            self._connection.execute(DROP_EMPTY_ARRIVALS)
        self._connection.execute(COUNT_ARRIVALS, {"first": first})


class _UploadsInTable(OtherUploads):
    """Reads as few uploads as possible: a study may have ten thousand."""

    def __init__(self, connection: Any, study_id: str, in_memory: Mapping[str, UploadRow]) -> None:
        self._connection = connection
        self._study_id = study_id
        self._in_memory = in_memory
        self._reached: dict[State, str | None] = {}  # by state: all uploads before this path are in memory; None: all of them are

    @override
    def any_in(self, state: State) -> bool:
        reached = self._reached.get(state, "")
        if reached is None:
            return False
        if reached and reached not in self._in_memory:
            return True
        # Phrased to match the partial index over uploads that are not archived. For archived ones any row will do.
        index = "" if state is State.ARCHIVED else "AND state <> 'archived'"
        sql = f"SELECT upload_path FROM uploads WHERE study_id = ? AND state = ? {index} AND upload_path >= ? ORDER BY upload_path"  # noqa: S608 - constants
        found = self._connection.execute(sql, (self._study_id, state.value, reached))
        self._reached[state] = next((path for (path,) in found if path not in self._in_memory), None)
        return self._reached[state] is not None


class PartitionWriter(IndexWriter):
    """Applies the entries of a partition to tables without indexes or search; the caller fills the tables derived from `files`.

    Up to `keep_studies` studies, except large ones, stay in memory from one write to the next; for others, `earlier` returns their
    entries when needed. `verified` lists the positions of `verified` entries, to be applied once all partitions are merged.
    """

    def __init__(self, connection: Any, earlier: Callable[[str], Iterable[Entry]], keep_studies: int) -> None:
        super().__init__(connection)
        self._earlier = earlier
        self._keep_studies = keep_studies
        self.verified: list[int] = []

    @property
    @override
    def _keep(self) -> int:
        return self._keep_studies

    @override
    def _apply_verified(self, entry: Entry) -> bool:
        self.verified.append(entry.position)
        return False

    @override
    def _fold(self, entry: Entry, study_id: str) -> None:
        rows = self._studies.pop(study_id, None) or self._load(entry, study_id)
        self._studies[study_id] = self._changed[study_id] = rows
        try:
            if (position := rows.needs(entry)) is not None:
                rows.add_message(position, None)
            rows.apply(entry)
        except Exception as error:  # noqa: BLE001 - earlier entries were fine, so this one is at fault
            self.damaged.append((entry.position, error.code if isinstance(error, LedgerUnusable) else NOT_UNDERSTOOD))

    def _load(self, entry: Entry, study_id: str) -> StudyRows:
        """Return the study's rows as they were before this entry, folded from its first entry."""
        earlier = () if entry.version == 1 else self._earlier(study_id)
        whole = [each for each in earlier if each.position < entry.position and not faults(each)]
        rows = _new_rows(study_id, whole[0].position if whole else entry.position)
        for each in whole:
            with suppress(Exception):  # it was already left out and reported when it was first applied
                rows.apply(each)
        rows.forget_changes()
        return rows

    @override
    def _write_studies(self, rows: list[StudyRow]) -> None:
        self._put("studies", rows)

    @override
    def _refresh(self, files: list[FileRow], before: list[tuple[FileRow, FileRow]]) -> None:
        pass

    @override
    def _count_arrivals(self, first: int) -> None:
        self._count_other_modalities(first)


def _new_rows(study_id: str, first_position: int) -> StudyRows:
    rows = StudyRows.new(study_id)
    rows.study[STUDY.first_position] = first_position
    return rows


def _upsert(table: str) -> str:
    """Return SQL that writes a row, with values in the order of the table's columns."""
    numbered = {f'"{name}"': f"?{number}" for number, name in enumerate(COLUMNS[table], 1)}
    numbered |= {"rowid": numbered[f'"{ROWID[table]}"']} if table in ROWID else {}
    return f"INSERT OR REPLACE INTO {table} ({', '.join(numbered)}) VALUES ({', '.join(numbered.values())})"  # noqa: S608 - our own names


_UPSERT = {table: _upsert(table) for table in ("studies", "uploads", "files")}

_described: Callable[[StudyRow], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in Described._fields))
_words: Callable[[StudyRow], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in SEARCHED))
