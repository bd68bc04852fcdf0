"""`files.patient_differs`: the files of one DICOM study that name different patients, whichever of them came first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from storage_ledger.core.identity import PATIENT, disputed, names_any

_NAMES = ", ".join(PATIENT)
_PATIENTS = f"SELECT study_instance_uid, first_position, {_NAMES} FROM patients WHERE study_instance_uid = ?"  # noqa: S608 - names of ours
_FILES = f"SELECT position, patient_differs, {_NAMES} FROM files WHERE"  # noqa: S608 - the same


def flag(connection: Any, uids: Iterable[str], first: int = 1) -> set[str]:
    """Set the flag of the files of these studies, of which `patients` knows; those before `first` have been flagged already.

    Every file that has what is disputed is flagged: nobody knows which patient is the right one. Returns the studies with files
    before `first` that are flagged otherwise now.
    """
    changed = set()
    for uid in sorted(uids):
        rows = connection.execute(_PATIENTS, (uid,)).fetchall()
        if len(rows) < 2 and first > 1:
            continue
        parts = disputed(map(_patient, rows))
        if first > 1 and parts != disputed(_patient(row) for row in rows if row[1] < first):
            changed.add(uid)
            _set(connection, "study_instance_uid = ?", uid, parts)
        else:
            _set(connection, f"position >= {first} AND +study_instance_uid = ?" if first > 1 else "study_instance_uid = ?", uid, parts)
    return changed


def flag_all(connection: Any) -> set[str]:
    """The same of a whole index in which no file is flagged yet. Returns the studies of more than one patient."""
    several = "SELECT study_instance_uid FROM patients GROUP BY 1 HAVING count(*) > 1"
    uids = {row[0] for row in connection.execute(several).fetchall()}
    flag(connection, uids)
    return uids


def _set(connection: Any, where: str, uid: str, parts: set[str]) -> None:
    rows = connection.execute(f"{_FILES} {where}", (uid,)).fetchall()
    wrong = [(int(not row[1]), row[0]) for row in rows if names_any(_patient(row), parts) is not bool(row[1])]
    connection.executemany("UPDATE files SET patient_differs = ? WHERE position = ?", wrong)


def _patient(row: Any) -> dict[str, str | None]:
    return dict(zip(PATIENT, row[2:], strict=True))
