"""Sets `files.patient_differs`: files of one DICOM study that name different patients, in whatever order they arrived."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from storage_ledger.domain.patient_identity import PATIENT, disputed, names_any, parts_of
from storage_ledger.index.search import json_list

_NAMES = ", ".join(PATIENT)
_FILES = f"SELECT position, patient_differs, {_NAMES} FROM files"  # noqa: S608 - our own names
_OF_A_STUDY = f"{_FILES} WHERE study_instance_uid = ?"
_NEW = f"{_FILES} INDEXED BY files_by_position WHERE position >= ? AND +study_instance_uid = ?"
_OF_SEVERAL = (
    "SELECT value FROM json_each(:chosen) "
    "WHERE (SELECT count(*) FROM (SELECT 1 FROM patients WHERE study_instance_uid = value LIMIT 2)) > 1"
)
"""The chosen studies with more than one patient. It counts no further than two: a study may have thousands."""
_EVERYTHING = 1 << 62


def flag(connection: Any, uids: Iterable[str], first: int = 1) -> set[str]:
    """Flag the files of these DICOM studies by the table `patients`. Files before position `first` are already flagged.

    Every file that names a disputed patient is flagged, because it is unknown which patient is right. Returns the studies in which files
    before `first` may have gained or lost the flag. Earlier files are read only if the set of disputed patients has changed.
    """
    if first == 1:
        for uid in sorted(uids):
            _set(connection, connection.execute(_OF_A_STUDY, (uid,)).fetchall(), _disputed(connection, uid))
        return set()
    changed = set()
    if values := json_list(uids):
        for (uid,) in connection.execute(_OF_SEVERAL, {"chosen": values}).fetchall():
            new = connection.execute(_NEW, (first, uid)).fetchall()
            named = frozenset[str]().union(*(parts_of(_patient(row)) for row in new))
            before = _disputed(connection, uid, named, first)
            if before == named or before == _disputed(connection, uid, named):
                _set(connection, new, before)
            else:
                changed.add(uid)
                _set(connection, connection.execute(_OF_A_STUDY, (uid,)).fetchall(), _disputed(connection, uid))
    return changed


def flag_all(connection: Any) -> set[str]:
    """Flag the files of a whole index in which none is flagged yet. Returns the studies with more than one patient."""
    several = "SELECT study_instance_uid FROM patients GROUP BY 1 HAVING count(*) > 1"
    uids = {row[0] for row in connection.execute(several).fetchall()}
    flag(connection, uids)
    return uids


def _disputed(connection: Any, uid: str, among: AbstractSet[str] | None = None, before: int = _EVERYTHING) -> set[str]:
    """Return what `disputed` returns for the study's patients whose first file is before position `before`."""
    found = set()
    for name in PATIENT:
        # DISTINCT streams: SQLite returns each value as soon as it finds it.
        sql = f"SELECT DISTINCT {name} FROM patients WHERE study_instance_uid = ? AND first_position < ?"  # noqa: S608 - our own name
        parts = None if among is None else {part for part in among if part.startswith(name)}
        if parts is None or parts:
            found |= disputed(({name: row[0]} for row in connection.execute(sql, (uid, before))), parts)
    return found


def _set(connection: Any, files: Iterable[Any], parts: AbstractSet[str]) -> None:
    wrong = [(int(not row[1]), row[0]) for row in files if names_any(_patient(row), parts) is not bool(row[1])]
    connection.executemany("UPDATE files SET patient_differs = ? WHERE position = ?", wrong)


def _patient(row: Any) -> dict[str, str | None]:
    return dict(zip(PATIENT, row[2:], strict=True))
