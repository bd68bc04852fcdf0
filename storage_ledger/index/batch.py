"""Entries → tables: each entry is checked, folded into its study's rows, and what changed is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.search_text import Described, search_text
from storage_ledger.errors import LedgerUnusable
from storage_ledger.index import fixity, patient_conflicts
from storage_ledger.index.rows import Row, StudyRows
from storage_ledger.index.search import add_search_text, shown_of, write_search_text
from storage_ledger.index.tables import (
    ARRIVED_ONE,
    COLUMNS,
    FILE,
    NONE_ARRIVED,
    ROWID,
    SEARCHED,
    STUDY,
    UPLOAD,
    add,
    add_patients,
    arrived,
    conflicts,
    forget,
    learn,
    make_again,
    make_patients_again,
    undo_conflicts,
    year,
)

UNFOLDED = "entry-not-understood"
WRITE_STUDIES = 2_000
WRITE_ENTRIES = 10_000
KEEP_STUDIES = 2_000
KEEP_ROWS = 20  # of one study: a larger one is read again when it is needed


class Batch:
    """Applies entries to the tables of an index; the caller begins and ends the transaction. `connection`: the driver's.

    `anew`: the tables are a share of a rebuild. Then there are no indexes and no search, and nothing is made from `files`; some
    studies stay in memory from one write to the next (`keep`, but no large one; the one longest unused goes first); of the others
    `earlier` gives all entries again when they are needed. What `verified` entries say is for the caller: `verified` has their
    positions. `damaged`: position and fault of the entries that it left out. `get`: the entry at a position of the ledger, for a
    follower, which reads only what is new.
    """

    def __init__(
        self,
        connection: Any,
        *,
        anew: bool = False,
        keep: int = KEEP_STUDIES,
        earlier: Callable[[str], Iterable[Entry]] = lambda _: (),
        get: Callable[[int], Entry | None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._sql = connection.execute
        self._anew = anew
        self._keep = keep if anew else 0
        self._earlier = earlier
        self._get = get
        self.damaged: list[tuple[int, str]] = []
        self.verified: list[int] = []
        self._studies: dict[str, StudyRows] = {}
        self._changed: dict[str, StudyRows] = {}
        self._words: dict[str, tuple[Any, ...] | None] = {}
        self._modalities: list[tuple[Row, Row]] = []
        self._first = 1

    def apply(self, entries: Iterable[Entry]) -> Entry | None:
        """Fold them in, in order; on return what came of it is in the tables. Returns the last one, None if there were none.

        An entry that is not what its hashes say is left out: nobody knows what was recorded there. The table `damaged` names it.
        """
        first = last = None
        unwritten = 0
        verified = Kind.VERIFIED
        for last in entries:
            first = first or last
            self._first = self._first if unwritten else last.position
            if found := faults(last):
                self.damaged.append((last.position, found[0]))
            elif last.kind == verified:
                if not fixity.is_understood(last):
                    self.damaged.append((last.position, UNFOLDED))
                else:
                    self._verified(last)
                    if not self._anew:  # that has written all that came before it
                        unwritten = 0
                        continue
            elif last.study_id is not None:
                try:
                    self._fold(last, last.study_id)
                except Exception as error:
                    if not self._anew:  # the index's own rows may be the reason: a rebuild finds out
                        raise
                    self.damaged.append((last.position, error.code if isinstance(error, LedgerUnusable) else UNFOLDED))
            unwritten += 1
            if unwritten == WRITE_ENTRIES or len(self._changed) == WRITE_STUDIES:
                self._write()
                unwritten = 0
        self._write()
        self._connection.executemany("INSERT OR REPLACE INTO damaged VALUES (?, ?)", self.damaged)
        if first is not None:
            self._arrived_otherwise(first.position)
            if not self._anew:
                self._sql(arrived(first.position))
        return last

    def _arrived_otherwise(self, first: int) -> None:
        """Count files that arrived before these entries, and whose modality was not known then."""
        for before, after in self._modalities:
            if after[FILE.position] < first and before[FILE.modality] != after[FILE.modality]:
                for row, sign in ((before, -1), (after, 1)):
                    self._sql(ARRIVED_ONE, (row[FILE.archived_at][:10], row[FILE.modality] or "", sign, sign * row[FILE.bytes]))
                if not self._anew:
                    self._sql(NONE_ARRIVED)
        self._modalities.clear()

    def _verified(self, entry: Entry) -> None:
        if self._anew:
            self.verified.append(entry.position)
        else:
            self._write()
            fixity.apply(self._sql, entry)

    def _fold(self, entry: Entry, study_id: str) -> None:
        rows = self._studies.pop(study_id, None) or self._load(entry, study_id)
        self._studies[study_id] = self._changed[study_id] = rows  # the last one is the one last used
        if (said_at := rows.needs(entry)) is not None:
            described = self._get(said_at) if said_at < entry.position else None
            rows.hear(said_at, None if described is None or faults(described) else described)
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
        before = [(row, rows.files[name].copy()) for rows in changed for name, row in rows.before.items()]
        self._modalities += before
        if not self._anew:
            self._refresh(files, before)
        for study_id, rows in self._changed.items():
            rows.before.clear()
            rows.changed_files.clear()
            rows.changed_uploads.clear()
            rows.stale.clear()
            if len(rows.files) + len(rows.uploads) > KEEP_ROWS:
                del self._studies[study_id]
        self._changed.clear()
        self._words.clear()
        for study_id in list(islice(self._studies, max(0, len(self._studies) - self._keep))):
            del self._studies[study_id]

    def _refresh(self, changed: Sequence[Row], before: Sequence[tuple[Row, Row]]) -> None:
        """Bring what is made from `files` up to date: new files are added, and only where an earlier one changed all is made again.

        `before`: rows that may have been of another study, or another instance, each with what it is now.
        """
        sops = {uid for row in changed if (uid := row[FILE.sop_instance_uid])}
        new = {uid for row in changed if (uid := row[FILE.study_instance_uid]) and row[FILE.position] >= self._first}
        stale = {uid for rows in self._changed.values() for uid, position in rows.stale if position < self._first}
        if before:
            sops |= {uid for row, _ in before if (uid := row[FILE.sop_instance_uid])}
            earlier = [row for pair in before if pair[0][FILE.position] < self._first for row in pair]
            stale |= {uid for row in earlier if (uid := row[FILE.study_instance_uid])}
            stale |= {row[0] for row in self._each(sops, lambda chosen: (undo_conflicts(chosen),)) if row[0]}
        flagged = self._each(sops, lambda chosen: (conflicts(chosen),))
        stale |= {uid for uid, position in flagged if uid and position < self._first}
        self._each(stale, make_patients_again)
        self._each(new - stale, lambda chosen: (add_patients(chosen, self._first),))
        patient_conflicts.flag(self._connection, stale)
        stale |= patient_conflicts.flag(self._connection, new - stale, self._first)
        shown = {row[0]: row[1:] for row in self._each(new - stale, lambda chosen: (shown_of(chosen),))}
        says = _new_words(shown, [row for row in changed if row[FILE.study_instance_uid] in shown])
        whole = (stale | new) - shown.keys() | {uid for uid, files in says.items() if _fills_a_gap(shown[uid][1:], files)}
        self._each(whole | says.keys(), lambda chosen: (forget("dicom_studies", chosen),))
        self._each(stale, make_again)
        self._each(new - stale, lambda chosen: add(chosen, self._first))
        for some in _chunks(sorted(whole)):
            write_search_text(self._connection, any_of(some), some)
        for uid in says.keys() - whole:
            add_search_text(self._connection, uid, shown[uid][0], shown[uid][1:], says[uid])
        self._each(whole | says.keys(), lambda chosen: (learn("dicom_studies", chosen),))

    def _each(self, uids: Iterable[str], statements: Callable[[str], Iterable[str]]) -> list[Any]:
        """Run them for all of these UIDs, some at a time. Returns the rows that they return."""
        found: list[Any] = []
        for some in _chunks(sorted(uids)):
            for statement in statements(any_of(some)):
                found += self._sql(statement, tuple(some)).fetchall()
        return found

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
        with suppress(Exception):  # it was left out, and named, when it was its turn
            rows.apply(each)
    rows.changed_files.clear()
    rows.changed_uploads.clear()
    rows.before.clear()
    rows.stale.clear()
    return rows


def _new_words(shown: dict[str, Sequence[Any]], files: Iterable[Row]) -> dict[str, list[Sequence[Any]]]:
    """By study, what new files say of it that its row does not show."""
    found: dict[str, list[Sequence[Any]]] = {}
    for row in files:
        uid, says = row[FILE.study_instance_uid], _said_by(row)
        if any(value is not None and value != other for value, other in zip(says, shown[uid][1:], strict=True)):
            found.setdefault(uid, []).append(says)
    return found


def _fills_a_gap(shown: Sequence[Any], files: Iterable[Sequence[Any]]) -> bool:
    """Whether one of these files says what the study's row has nothing of yet, and so may change what it shows."""
    return any(value is not None and other is None for says in files for value, other in zip(says, shown, strict=True))


def any_of(values: Sequence[str]) -> str:
    """A condition for so many values."""
    return f"IN ({', '.join('?' * len(values))})"


_described: Callable[[Row], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in Described._fields))
_said_by: Callable[[Row], tuple[Any, ...]] = itemgetter(*(getattr(FILE, name) for name in Described._fields))
_words: Callable[[Row], tuple[Any, ...]] = itemgetter(*(getattr(STUDY, name) for name in SEARCHED))


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + 500] for i in range(0, len(values), 500))
