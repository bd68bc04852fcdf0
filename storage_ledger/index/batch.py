"""Entries → tables: each entry is checked, folded into its study's rows, and what changed is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from storage_ledger.core.entries import Entry, Kind, faults
from storage_ledger.core.search_text import Described, search_text
from storage_ledger.index import fixity
from storage_ledger.index.rows import Row, StudyRows
from storage_ledger.index.searched import write_search_text
from storage_ledger.index.tables import COLUMNS, FILE, ROWID, SEARCHED, STUDY, UPLOAD, arrived, conflicts, forget, learn, refresh, year

WRITE_STUDIES = 2_000
WRITE_ENTRIES = 10_000
KEEP_STUDIES = 2_000
KEEP_ROWS = 20  # of one study: a larger one is read again when it is needed


class Batch:
    """Applies entries to the tables of an index; the caller begins and ends the transaction. `connection`: the driver's.

    `anew`: the tables are a share of a rebuild. Then there are no indexes and no search, and nothing is made from `files`; some
    studies stay in memory from one write to the next (`keep`, but no large one; the one longest unused goes first); of the others
    `earlier` gives all entries again when they are needed. What `verified` entries say is for the caller: `verified` has their
    positions. `damaged`: position and fault of the entries that it left out.
    """

    def __init__(
        self,
        connection: Any,
        *,
        anew: bool = False,
        keep: int = KEEP_STUDIES,
        earlier: Callable[[str], Iterable[Entry]] = lambda _: (),
    ) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._anew = anew
        self._keep = keep if anew else 0
        self._earlier = earlier
        self.damaged: list[tuple[int, str]] = []
        self.verified: list[int] = []
        self._studies: dict[str, StudyRows] = {}
        self._changed: dict[str, StudyRows] = {}
        self._words: dict[str, tuple[Any, ...] | None] = {}

    def apply(self, entries: Iterable[Entry]) -> Entry | None:
        """Fold them in, in order; on return what came of it is in the tables. Returns the last one, None if there were none.

        An entry that is not what its hashes say is left out: nobody knows what was recorded there. The table `damaged` names it.
        """
        first = last = None
        unwritten = 0
        verified = Kind.VERIFIED
        for last in entries:
            first = first or last
            if found := faults(last):
                self.damaged.append((last.position, found[0]))
            elif last.kind == verified:
                self._verified(last)
            elif last.study_id is not None:
                self._fold(last, last.study_id)
            unwritten += 1
            if unwritten == WRITE_ENTRIES or len(self._changed) == WRITE_STUDIES:
                self._write()
                unwritten = 0
        self._write()
        self._connection.executemany("INSERT OR REPLACE INTO damaged VALUES (?, ?)", self.damaged)
        if first is not None and not self._anew:
            self._sql(arrived(first.position))
        return last

    def _verified(self, entry: Entry) -> None:
        if self._anew:
            self.verified.append(entry.position)
        else:
            self._write()
            fixity.apply(self._sql, entry)

    def _fold(self, entry: Entry, study_id: str) -> None:
        rows = self._studies.pop(study_id, None) or self._load(entry, study_id)
        self._studies[study_id] = self._changed[study_id] = rows  # the last one is the one last used
        rows.apply(entry)

    def _load(self, entry: Entry, study_id: str) -> StudyRows:
        """The study as it was before this entry. Before its first one there was nothing."""
        if self._anew or entry.version == 1:
            before = () if entry.version == 1 else self._earlier(study_id)
            self._words[study_id] = None
            return _folded(study_id, entry, before)
        found = self._select("studies", study_id)
        self._words[study_id] = _words(found[0]) if found else None
        if found:
            uploads = {row[UPLOAD.upload_path]: row for row in self._select("uploads", study_id)}
            files = {row[FILE.name]: row for row in self._select("files", study_id)}
            return StudyRows(found[0], uploads, files)
        return _folded(study_id, entry, ())

    def _select(self, table: str, study_id: str) -> list[Row]:
        return list(map(list, self._sql(f"SELECT * FROM {table} WHERE study_id = ?", (study_id,))))  # noqa: S608 - names of ours

    def _write(self) -> None:
        changed = self._changed.values()
        for rows in changed:
            rows.study[STUDY.year] = year(rows.study[STUDY.study_date])
            rows.study[STUDY.search_text] = search_text(_described(rows.study))
        other_words = [] if self._anew else [key for key, rows in self._changed.items() if _words(rows.study) != self._words[key]]
        for some in _chunks(other_words):
            self._sql(forget("studies", any_of(some)), tuple(some))
        self._put("studies", [rows.study for rows in changed])
        for some in _chunks(other_words):
            self._sql(learn("studies", any_of(some)), tuple(some))
        self._put("uploads", [rows.uploads[path] for rows in changed for path in sorted(rows.changed_uploads)])
        files = [rows.files[name] for rows in changed for name in sorted(rows.changed_files)]
        self._put("files", files)
        if not self._anew:
            self._refresh(files)
        for study_id, rows in self._changed.items():
            rows.changed_files.clear()
            rows.changed_uploads.clear()
            if len(rows.files) + len(rows.uploads) > KEEP_ROWS:
                del self._studies[study_id]
        self._changed.clear()
        self._words.clear()
        for study_id in list(islice(self._studies, max(0, len(self._studies) - self._keep))):
            del self._studies[study_id]

    def _refresh(self, changed: Iterable[Row]) -> None:
        sops = sorted({uid for row in changed if (uid := row[FILE.sop_instance_uid])})
        uids = {uid for row in changed if (uid := row[FILE.study_instance_uid])}
        for some in _chunks(sops):
            uids |= {row[0] for row in self._sql(conflicts(any_of(some)), tuple(some)).fetchall() if row[0]}
        for some in _chunks(sorted(uids)):
            chosen = any_of(some)
            for statement in (forget("dicom_studies", chosen), *refresh(chosen)):
                self._sql(statement, tuple(some))
            write_search_text(self._connection, chosen, some)
            self._sql(learn("dicom_studies", chosen), tuple(some))

    def _put(self, table: str, rows: Sequence[Row]) -> None:
        self._connection.executemany(_UPSERT[table], rows)


def _upsert(table: str) -> str:
    """SQL that writes a row whose values stand in the order of its columns."""
    numbered = {f'"{name}"': f"?{number}" for number, name in enumerate(COLUMNS[table], 1)}
    numbered |= {"rowid": numbered[f'"{ROWID[table]}"']} if table in ROWID else {}
    return f"INSERT OR REPLACE INTO {table} ({', '.join(numbered)}) VALUES ({', '.join(numbered.values())})"  # noqa: S608 - names of ours


_UPSERT = {table: _upsert(table) for table in ("studies", "uploads", "files")}


def _folded(study_id: str, entry: Entry, before: Iterable[Entry]) -> StudyRows:
    rows = StudyRows.new(study_id)
    whole = [each for each in before if each.position < entry.position and not faults(each)]
    rows.study[STUDY.first_position] = whole[0].position if whole else entry.position
    for each in whole:
        rows.apply(each)
    rows.changed_files.clear()
    rows.changed_uploads.clear()
    return rows


def any_of(values: Sequence[str]) -> str:
    """A condition for so many values."""
    return f"IN ({', '.join('?' * len(values))})"


_described: Callable[[Row], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in Described._fields))
_words: Callable[[Row], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in SEARCHED))


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + 500] for i in range(0, len(values), 500))
