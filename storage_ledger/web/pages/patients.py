"""Patients named by files and messages, one line each, wherever there is more than one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from storage_ledger.domain.patient_identity import PATIENT, disputed, names_any
from storage_ledger.operations.report.flags import message_and_file
from storage_ledger.web.pages.formatting import identity
from storage_ledger.web.pages.queries import QueryRow, ask

MOST_PATIENTS = 20
"""Maximum number of patients named on a study's page."""

MOST_OTHERS = 3
"""Maximum number of patients named per study in a list."""


def sides(file: QueryRow) -> QueryRow:
    """Return `message_says` and `file_says`, one line each, if message and header of a file disagree; otherwise nothing."""
    found = message_and_file(file)
    if not found["differences"]:
        return {}
    differing = [each["attribute"] for each in found["differences"]]
    return {"message_says": identity(found["message"], differing), "file_says": identity(file, differing)}


def patients_of(connection: Any, uid: str) -> QueryRow:
    """Return the patients named by the files of a DICOM study, with file counts, largest first; empty unless they differ.

    `patients`: the first few; `more_patients`: the number left out.
    """
    rows = ask(connection, "SELECT * FROM patients WHERE study_instance_uid = ?", (uid,))
    parts = disputed(rows)
    named: Counter[str] = Counter()
    for row in rows:
        if names_any(row, parts):
            named[identity(row, PATIENT)] += row["files"]
    shown = [{"says": says, "files": files} for says, files in named.most_common(MOST_PATIENTS)]
    return {"patients": shown, "more_patients": len(named) - len(shown)}


def with_other_patients(connection: Any, studies: Sequence[QueryRow]) -> list[QueryRow]:
    """Add `others` to each study: its other patients, so that a search hit on one of them makes sense."""
    return [{**study, "others": _others(connection, study) if study["flagged"] else []} for study in studies]


def _others(connection: Any, study: QueryRow) -> list[str]:
    says = [each["says"] for each in patients_of(connection, study["study_instance_uid"])["patients"]]
    return [each for each in says if each != identity(study, PATIENT)][:MOST_OTHERS]
