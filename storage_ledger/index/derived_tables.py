"""Everything derived from `files`: `series`, `dicom_studies`, `patients`, `arrivals`, conflict flags, and the search over studies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any

from storage_ledger.domain.patient_identity import PATIENT
from storage_ledger.domain.search_text import Described
from storage_ledger.index import patient_conflicts
from storage_ledger.index.columns import FILE, FileRow
from storage_ledger.index.schema import FLAGGED, OF_A_SERIES, OF_A_STUDY
from storage_ledger.index.search import (
    CHOSEN,
    add_search_text,
    json_list,
    put_into_search,
    shown_of,
    take_out_of_search,
    write_search_text,
)


def refresh(connection: Any, first: int, changed: Sequence[FileRow], before: Sequence[tuple[FileRow, FileRow]], stale: set[str]) -> None:
    """Update everything derived from `files` after some of its rows were written.

    `changed`: these rows; new files have positions from `first` on. `before`: old and new row of each file whose header or message
    was re-read, and which may therefore have moved to another DICOM study or instance. `stale`: UIDs of studies whose flags
    changed. New files are added to their study; a study is recomputed from all its files only if an earlier file has changed.
    """

    def run(uids: AbstractSet[str], *statements: str) -> list[Any]:
        """Run the statements for these UIDs, and return all rows that they return."""
        values = {"chosen": json_list(uids), "first": first}
        return [row for each in statements for row in connection.execute(each, values)] if uids else []

    sops = {uid for row in changed if (uid := row[FILE.sop_instance_uid])}
    new = {uid for row in changed if (uid := row[FILE.study_instance_uid]) and row[FILE.position] >= first}
    if before:
        sops |= {uid for row, _ in before if (uid := row[FILE.sop_instance_uid])}
        earlier = [row for pair in before if pair[0][FILE.position] < first for row in pair]
        stale |= {uid for row in earlier if (uid := row[FILE.study_instance_uid])}
        stale |= {row[0] for row in run(sops, unflag_conflicts(CHOSEN)) if row[0]}
    flagged = run(sops, flag_conflicts(CHOSEN))
    stale |= {uid for uid, position in flagged if uid and position < first}
    run(stale, *recompute_patients(CHOSEN))
    run(new - stale, add_patients(CHOSEN, only_new=True))
    patient_conflicts.flag(connection, stale)
    stale |= patient_conflicts.flag(connection, new - stale, first)
    shown = {row[0]: row[1:] for row in run(new - stale, shown_of(CHOSEN))}
    says = _new_words(shown, [row for row in changed if row[FILE.study_instance_uid] in shown])
    whole = (stale | new) - shown.keys() | {uid for uid, files in says.items() if _fills_a_gap(shown[uid][1:], files)}
    take_out_of_search(connection, "dicom_studies", whole | says.keys())
    run(stale, *recompute_studies(CHOSEN))
    run(new - stale, *add_files(CHOSEN, only_new=True))
    if whole:
        write_search_text(connection, CHOSEN, {"chosen": json_list(whole)})
    for uid in says.keys() - whole:
        add_search_text(connection, uid, shown[uid][0], shown[uid][1:], says[uid])
    put_into_search(connection, "dicom_studies", whole | says.keys())


def _new_words(shown: dict[str, Sequence[Any]], files: Iterable[FileRow]) -> dict[str, list[Sequence[Any]]]:
    """Return, by study UID, the values of new files that differ from the study's row."""
    found: dict[str, list[Sequence[Any]]] = {}
    for row in files:
        uid, says = row[FILE.study_instance_uid], _said_by(row)
        if uid is not None and any(value is not None and value != other for value, other in zip(says, shown[uid][1:], strict=True)):
            found.setdefault(uid, []).append(says)
    return found


def _fills_a_gap(shown: Sequence[Any], files: Iterable[Sequence[Any]]) -> bool:
    """Return whether a file has a value where the study's row has none, so that the row may change."""
    return any(value is not None and other is None for says in files for value, other in zip(says, shown, strict=True))


def recompute_studies(chosen: str) -> tuple[str, ...]:
    """Return SQL that recomputes `series` and `dicom_studies` from `files` and `patients` for the UIDs that `chosen` selects."""
    return tuple(f"DELETE FROM {table} WHERE study_instance_uid {chosen}" for table in ("series", "dicom_studies")) + add_files(chosen)  # noqa: S608 - our own names and placeholders


def recompute_patients(chosen: str) -> tuple[str, ...]:
    """Return SQL that recomputes `patients`. Run it first: the flag `patient_differs` depends on it."""
    return f"DELETE FROM patients WHERE study_instance_uid {chosen}", add_patients(chosen)  # noqa: S608 - as above


def add_files(chosen: str, *, only_new: bool = False) -> tuple[str, ...]:
    """Return SQL that adds files to `dicom_studies` and `series`.

    `only_new`: those with `position` ≥ `:first`; the tables have the earlier ones already. The cost does not depend on how many files
    a study already has.
    """
    # In this order: the first statement checks which series already exist.
    return _add_studies(chosen, only_new), _add_series(chosen, only_new)


def add_patients(chosen: str, *, only_new: bool = False) -> str:
    """Return SQL that adds files to `patients`: one row for each patient named by the files of a study. `only_new`: as in `add_files`."""
    names = ", ".join(f"coalesce({name}, '')" for name in PATIENT)
    return f"""
INSERT INTO patients SELECT study_instance_uid, {names}, count(*), min(position) FROM {_files(chosen, only_new)} GROUP BY 1, 2, 3, 4, 5
ON CONFLICT DO UPDATE SET files = files + excluded.files, first_position = min(first_position, excluded.first_position)"""  # noqa: S608 - our own names and placeholders


_NO_PATIENT = 1 << 60
"""Added to the position of a file with neither name nor ID, so that it sorts after all others."""


def _files(chosen: str, only_new: bool) -> str:
    """Return the FROM clause. For new files it forces the index by position: SQLite would otherwise read the whole study or table."""
    if not only_new:
        return f"files n WHERE study_instance_uid {chosen}"
    return f"files n INDEXED BY files_by_position WHERE position >= :first AND +study_instance_uid {chosen}"


def _firsts(columns: Sequence[str]) -> str:
    return ", ".join(f"min(CASE WHEN {column} IS NOT NULL THEN position END) AS first_{column}" for column in columns)


def _value(column: str) -> str:
    return f"(SELECT {column} FROM files WHERE position = a.first_{column}) AS {column}"  # noqa: S608 - our own names


def _kept(columns: Sequence[str]) -> str:
    """Return SET clauses that keep values from earlier files."""
    return ", ".join(f"{column} = coalesce({column}, excluded.{column})" for column in columns)


def _add_series(chosen: str, only_new: bool) -> str:
    return f"""
INSERT INTO series
SELECT {", ".join(map(_value, OF_A_SERIES))}, a.files, a.bytes, a.study_instance_uid, a.series_instance_uid
FROM (SELECT study_instance_uid, series_instance_uid, {_firsts(OF_A_SERIES)}, count(*) AS files, sum(bytes) AS bytes
      FROM {_files(chosen, only_new)} AND series_instance_uid IS NOT NULL GROUP BY 1, 2) a
WHERE true ON CONFLICT DO UPDATE SET {_kept(OF_A_SERIES)}, files = files + excluded.files, bytes = bytes + excluded.bytes"""  # noqa: S608 - our own names and placeholders


def _add_studies(chosen: str, only_new: bool) -> str:
    known_study = known_series = known_modality = ""
    if only_new:
        of_series = (
            "SELECT 1 FROM series s WHERE s.study_instance_uid = n.study_instance_uid AND s.series_instance_uid = n.series_instance_uid"
        )
        known_study = """WHEN EXISTS (SELECT 1 FROM files e WHERE e.study_id = n.study_id
               AND +e.study_instance_uid = n.study_instance_uid AND +e.position < :first) THEN NULL"""
        known_series = f"WHEN EXISTS ({of_series}) THEN NULL"
        # `series` has only its first file's modality, so files are checked too; among several modalities a match is found soon.
        known_modality = f"""AND NOT EXISTS ({of_series} AND s.modality = n.modality)
             AND NOT EXISTS (SELECT 1 FROM files e WHERE e.study_instance_uid = n.study_instance_uid
               AND e.modality = n.modality AND +e.position < :first)"""  # noqa: S608 - a constant
    whole = ", ".join(f"{name} = CASE WHEN patient_name IS NULL AND patient_id IS NULL AND "
                      f"(excluded.patient_name IS NOT NULL OR excluded.patient_id IS NOT NULL) THEN excluded.{name} ELSE {name} END"
                      for name in PATIENT)  # fmt: skip
    value = {column: _value(column) for column in OF_A_STUDY}
    return f"""
INSERT INTO dicom_studies (
  study_instance_uid, patient_name, patient_id, study_date, modalities, study_description, series, files, bytes, institution_name,
  accession_number, patient_birth_date, patient_sex, study_time, manufacturer, referring_physician_name, dicom_study_id, studies, flagged,
  first_archived_at, last_archived_at, first_position, year)
SELECT *, CASE WHEN study_date GLOB '[12][0-9][0-9][0-9]*' THEN CAST(substr(study_date, 1, 4) AS INTEGER) END FROM (
SELECT a.study_instance_uid, p.patient_name, p.patient_id, {value["study_date"]},
       CASE WHEN a.another_modality THEN (SELECT group_concat(modality, ', ') FROM (SELECT DISTINCT modality FROM files m
          WHERE m.study_instance_uid = a.study_instance_uid AND modality IS NOT NULL ORDER BY modality)) END AS modalities,
       {value["study_description"]}, a.series, a.files, a.bytes, {value["institution_name"]},
       {value["accession_number"]}, p.patient_birth_date, p.patient_sex,
       {value["study_time"]}, {value["manufacturer"]}, {value["referring_physician_name"]}, {value["dicom_study_id"]},
       a.studies, a.flagged, a.first_at, a.last_at, a.first
FROM (SELECT study_instance_uid, min(position) AS first, count(*) AS files, sum(bytes) AS bytes,
             min(position + {_NO_PATIENT} * (patient_name IS NULL AND patient_id IS NULL)) % {_NO_PATIENT} AS identity,
             count(DISTINCT CASE {known_study} WHEN true THEN study_id END) AS studies,
             count(DISTINCT CASE {known_series} WHEN true THEN series_instance_uid END) AS series, sum({FLAGGED}) AS flagged,
             min(archived_at) AS first_at, max(archived_at) AS last_at, max(modality IS NOT NULL {known_modality}) AS another_modality,
             {_firsts(OF_A_STUDY)}
      FROM {_files(chosen, only_new)} GROUP BY 1) a
JOIN files p ON p.position = a.identity)
WHERE true ON CONFLICT DO UPDATE SET {whole}, {_kept(OF_A_STUDY)}, modalities = coalesce(excluded.modalities, modalities),
  series = series + excluded.series, files = files + excluded.files, bytes = bytes + excluded.bytes, studies = studies + excluded.studies,
  flagged = flagged + excluded.flagged, first_archived_at = min(first_archived_at, excluded.first_archived_at),
  last_archived_at = max(last_archived_at, excluded.last_archived_at), first_position = min(first_position, excluded.first_position),
  year = CASE WHEN study_date IS NULL THEN excluded.year ELSE year END"""  # noqa: S608 - our own names and placeholders


def flag_conflicts(chosen: str) -> str:
    """Return SQL that flags files with the same SOP Instance UID (in `chosen`) but different bytes; it returns study UIDs and positions."""
    shared = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid {chosen} GROUP BY 1 HAVING count(*) > 1"  # noqa: S608 - placeholders
    differing = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid IN ({shared}) GROUP BY 1 HAVING count(DISTINCT sha256) > 1"  # noqa: S608 - as above
    found = f"sop_conflict = 0 AND sop_instance_uid IN ({differing})"
    return f"UPDATE files SET sop_conflict = 1 WHERE {found} RETURNING study_instance_uid, position"  # noqa: S608 - as above


def unflag_conflicts(chosen: str) -> str:
    """Return SQL that clears that flag for the SOP Instance UIDs in `chosen`, before `flag_conflicts`; it returns study UIDs."""
    return f"UPDATE files SET sop_conflict = 0 WHERE sop_conflict = 1 AND sop_instance_uid {chosen} RETURNING study_instance_uid"  # noqa: S608 - placeholders


ADD_TO_ARRIVALS = "ON CONFLICT (day, modality) DO UPDATE SET files = files + excluded.files, bytes = bytes + excluded.bytes"

COUNT_ARRIVALS = f"""
INSERT INTO arrivals
SELECT substr(archived_at, 1, 10), coalesce(modality, ''), count(*), sum(bytes) FROM files WHERE position >= :first GROUP BY 1, 2
{ADD_TO_ARRIVALS}"""  # noqa: S608 - constants
"""Adds the files whose `archived` entry is at position `:first` or later to `arrivals`."""

COUNT_ARRIVAL = f"INSERT INTO arrivals VALUES (?, ?, ?, ?) {ADD_TO_ARRIVALS}"  # noqa: S608 - a constant
"""For a counted file whose modality has changed: run it with negative numbers for the old one, then for the new one."""

DROP_EMPTY_ARRIVALS = "DELETE FROM arrivals WHERE files = 0"


def year(study_date: str | None) -> int | None:
    """Return the year if the text begins with one: dates before 1993 look like 1990.12.31, and the field may hold anything.

    `add_files` has the same rule in SQL.
    """
    return int(study_date[:4]) if study_date and _BEGINS_WITH_A_YEAR(study_date) else None


_BEGINS_WITH_A_YEAR = re.compile("[12][0-9]{3}").match

_said_by: Callable[[FileRow], tuple[Any, ...]] = itemgetter(*(getattr(FILE, name) for name in Described._fields))
