"""A DICOM study: its attributes, its series, and the files of the selected series."""

from __future__ import annotations

import json
import os.path
from typing import Any
from urllib.parse import quote

from storage_ledger.domain.patient_identity import PATIENT, UIDS
from storage_ledger.index.schema import FLAGS as TABLE_FLAGS
from storage_ledger.operations.report.flags import FLAGS
from storage_ledger.web.pages.formatting import modalities, patient_age, person
from storage_ledger.web.pages.patients import patients_of, sides
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one
from storage_ledger.web.pages.study_list import with_condition

A_PAGE = 500
"""Files of a series per page."""

NO_FLAGS: QueryRow = {"flags": [], "more_flags": 0, "patients": [], "more_patients": 0}

MOST_FLAGS = 3
"""Maximum number of flags explained above the images; the total is always shown."""

_NO_SERIES = ""
"""In an address: files without a Series Instance UID."""


def of_index(connection: Any, uid: str, series_uid: str | None, chosen: str | None, page: int) -> QueryRow | None:
    """Return the study, or None if there is none. `chosen`: `<study_id>/<name>` of the file to show first."""
    study = ask_one(connection, "SELECT * FROM dicom_studies WHERE study_instance_uid = ?", (uid,))
    if study is None:
        return None
    (study,) = with_condition(connection, [study])
    all_series = _series(connection, uid)
    file = _file(connection, uid, chosen)
    if file is not None:
        series_uid = file["series_instance_uid"] or _NO_SERIES
    series = next((each for each in all_series if each["uid"] == series_uid), None) or _best(all_series)
    offset = (page - 1) * A_PAGE
    if file is not None and series is not None:
        offset = _place(connection, uid, series["uid"], file) // A_PAGE * A_PAGE
    files = _files(connection, uid, series["uid"], offset) if series else []
    if file is None and files:
        shown = [each for each in files if each["rows"] is not None] or files
        file = shown[len(shown) // 3] if page == 1 else shown[0]
    current = (
        None
        if file is None
        else next((each for each in files if (each["study_id"], each["name"]) == (file["study_id"], file["name"])), None)
    )
    return {
        "study": {**study, "person": person(study["patient_name"]), "kinds": modalities(study["modalities"])},
        "age": patient_age(study["patient_birth_date"], study["study_date"]),
        "all_series": all_series,
        "series": series,
        "files": files,
        "current": current,
        "page": offset // A_PAGE + 1,
        "pages": max(1, -(-series["files"] // A_PAGE)) if series else 1,
        "damaged": ask(connection, f"{_FILE} WHERE study_instance_uid = ? AND fixity IN ('missing', 'changed') LIMIT 20", (uid,))
        if study["fixity"].keys() & {"missing", "changed"} else [],
        **(_flags(connection, uid) | patients_of(connection, uid) if study["flagged"] else NO_FLAGS),
        "last_position": (ask_one(connection, _LAST, (uid,)) or {"n": None})["n"],
        "pipeline": ask(connection, "SELECT DISTINCT study_id FROM files WHERE study_instance_uid = ? LIMIT 2", (uid,)),
    }  # fmt: skip


def waiting(connection: Any, uid: str) -> list[QueryRow]:
    """Return the pipeline studies of this DICOM study that are not archived yet."""
    sql = "SELECT study_id, state, last_error FROM studies WHERE study_instance_uid = ? AND state IN ('pending', 'failed', 'quarantined')"
    return ask(connection, f"{sql} LIMIT 20", (uid,))


def path(file: QueryRow) -> str:
    """Return `<study_id>/<name>`, quoted for an address."""
    return f"{quote(file['study_id'], safe='')}/{quote(file['name'], safe='')}"


_OF_A_FILE = ", ".join((
    "study_id", "name", "modality", "instance_number", "bytes", '"rows"', '"columns"', "frames", "position", "archived_at", "fixity",
    "verified_at", "dicom_error", "sha256", *PATIENT, *UIDS, "announced", *TABLE_FLAGS,
))  # fmt: skip
_FILE = f"SELECT {_OF_A_FILE} FROM files"  # noqa: S608 - names of ours
_LAST = "SELECT max(last_position) AS n FROM studies WHERE study_id IN (SELECT study_id FROM files WHERE study_instance_uid = ?)"
_ORDER = "ORDER BY series_instance_uid, instance_number, study_id, name"  # the order of an index


def _series(connection: Any, uid: str) -> list[QueryRow]:
    rows = ask(connection, "SELECT *, series_instance_uid AS uid FROM series WHERE study_instance_uid = ? "
                           "ORDER BY series_number NULLS LAST, series_instance_uid LIMIT 500", (uid,))  # fmt: skip
    of_none = ask_one(connection, "SELECT count(*) AS files, sum(bytes) AS bytes, min(modality) AS modality FROM files "
                                  "WHERE study_instance_uid = ? AND series_instance_uid IS NULL", (uid,))  # fmt: skip
    if of_none and of_none["files"]:
        rows.append(
            {"series_number": None, "series_description": "Files without a series", "body_part": None, "uid": _NO_SERIES, **of_none}
        )
    for row in rows:
        of_series = f'{_FILE} WHERE study_instance_uid = ? AND series_instance_uid IS ? AND "rows" IS NOT NULL {_ORDER} LIMIT 1 OFFSET ?'
        found = ask(connection, of_series, (uid, row["uid"] or None, 0 if row["files"] > 1000 else row["files"] // 3))
        row["cover"] = {"path": path(found[0])} if found else None
        row["href"] = f"/dicom/{quote(uid, safe='')}?series={quote(row['uid'], safe='')}"
    return rows


def _best(all_series: list[QueryRow]) -> QueryRow | None:
    """Return the first series that has images."""
    return next((each for each in all_series if each["cover"]), all_series[0] if all_series else None)


def _file(connection: Any, uid: str, chosen: str | None) -> QueryRow | None:
    study_id, _, name = (chosen or "").partition("/")
    return (
        ask_one(connection, f"{_FILE} WHERE study_id = ? AND name = ? AND study_instance_uid = ?", (study_id, name, uid)) if name else None
    )


def _place(connection: Any, uid: str, series_uid: str, file: QueryRow) -> int:
    """Return the number of files of the series that come before this one."""
    found = ask_one(
        connection,
        "SELECT count(*) AS n FROM files WHERE study_instance_uid = ? AND series_instance_uid IS ? "
        "AND (coalesce(instance_number, -9e15), study_id, name) < (coalesce(?, -9e15), ?, ?)",
        (uid, series_uid or None, file["instance_number"], file["study_id"], file["name"]),
    )
    return int(found["n"]) if found else 0


def _files(connection: Any, uid: str, series_uid: str, offset: int) -> list[QueryRow]:
    sql = f"{_FILE} WHERE study_instance_uid = ? AND series_instance_uid IS ? {_ORDER} LIMIT ? OFFSET ?"
    rows = ask(connection, sql, (uid, series_uid or None, A_PAGE, max(0, offset)))
    return [{**row, "path": path(row), "suffix": os.path.splitext(row["name"])[1]} for row in rows]


def _flags(connection: Any, uid: str) -> QueryRow:
    """Return the first flagged files, each with the files that it conflicts with (not listed again), and how many more there are.

    Files that differ only in the patient are left to `patients_of`, because that may be every file of the study.
    """
    flagged = f"study_instance_uid = ? AND ({' OR '.join(_EXPLAINED)})"
    rows = ask(connection, f"{_FILE} WHERE {flagged} LIMIT 20", (uid,))
    named: set[tuple[str, str]] = set()
    flags: list[QueryRow] = []
    for row in rows:
        if len(flags) == MOST_FLAGS or ((row["study_id"], row["name"]) in named and not row["message_differs"]):
            continue
        row |= {"path": path(row), **sides(row)}
        row["others"] = (
            ask(connection, "SELECT study_id, name, study_instance_uid FROM files WHERE sop_instance_uid = ? AND sha256 <> ? LIMIT 5",
                (row["sop_instance_uid"], row["sha256"])) if row["sop_conflict"] else []
        )  # fmt: skip
        announced = json.loads(row["announced"] or "{}")
        row["announced"] = announced.get("study_instance_uid") if row["study_uid_differs"] else None
        flags.append(row)
        named |= {(each["study_id"], each["name"]) for each in (row, *row["others"]) if each.get("study_instance_uid", uid) == uid}
    count = ask_one(connection, f"SELECT count(*) AS n FROM files WHERE {flagged}", (uid,))  # noqa: S608 - names of ours
    return {"flags": flags, "more_flags": max(0, (count or {"n": 0})["n"] - len(named))}


_EXPLAINED = [flag.column for flag in FLAGS if flag.column != "patient_differs"]
