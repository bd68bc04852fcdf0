"""The tables of index.db. No migrations: `SCHEMA` changes with any of this, and another schema means a rebuild."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

from storage_ledger.domain.patient_identity import PATIENT

# Columns stand in the order in which people read them: pages, CSV and `select *` all follow it.
# The large ones have a rowid besides their key (`ROWID`): their rows lie in the order in which they came, so that making them
# anew only ever appends, and each of their many indexes holds eight bytes a row in place of a whole key.
TABLES = {
    "studies": """(
  study_id TEXT PRIMARY KEY NOT NULL, patient_name TEXT, patient_id TEXT, study_date TEXT, modality TEXT, study_description TEXT,
  state TEXT NOT NULL, status_sent TEXT, files INTEGER NOT NULL, bytes INTEGER NOT NULL, archived_at TEXT, last_error TEXT,
  institution_name TEXT, accession_number TEXT, patient_birth_date TEXT, patient_sex TEXT, study_time TEXT, manufacturer TEXT,
  described_at TEXT, study_instance_uid TEXT, first_position INTEGER NOT NULL, last_position INTEGER NOT NULL, year INTEGER,
  search_text TEXT
)""",
    "uploads": """(
  study_id TEXT NOT NULL, upload_path TEXT NOT NULL, state TEXT NOT NULL, code TEXT, position INTEGER NOT NULL,
  PRIMARY KEY (study_id, upload_path)
) WITHOUT ROWID""",
    "files": """(
  study_id TEXT NOT NULL, name TEXT NOT NULL, patient_name TEXT, patient_id TEXT, study_date TEXT, modality TEXT,
  study_description TEXT, series_number INTEGER, series_description TEXT, instance_number INTEGER, bytes INTEGER NOT NULL,
  "rows" INTEGER, "columns" INTEGER, frames INTEGER, body_part TEXT, archived_at TEXT NOT NULL, position INTEGER NOT NULL,
  placed INTEGER NOT NULL,
  fixity TEXT NOT NULL, verified_at TEXT, dicom_error TEXT, sop_conflict INTEGER NOT NULL, study_uid_differs INTEGER NOT NULL,
  patient_differs INTEGER NOT NULL, message_differs INTEGER NOT NULL, superseded INTEGER NOT NULL, unconfirmed INTEGER NOT NULL,
  described INTEGER, announced TEXT, from_message TEXT,
  institution_name TEXT, accession_number TEXT, patient_birth_date TEXT, patient_sex TEXT, study_time TEXT, manufacturer TEXT,
  original_name TEXT NOT NULL, archive_path TEXT NOT NULL, sha256 TEXT NOT NULL, study_instance_uid TEXT, series_instance_uid TEXT,
  sop_instance_uid TEXT, sop_class_uid TEXT, transfer_syntax_uid TEXT,
  PRIMARY KEY (study_id, name)
)""",
    "dicom_studies": """(
  study_instance_uid TEXT PRIMARY KEY NOT NULL, patient_name TEXT, patient_id TEXT, study_date TEXT, modalities TEXT,
  study_description TEXT, series INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  institution_name TEXT, accession_number TEXT, patient_birth_date TEXT, patient_sex TEXT, study_time TEXT, manufacturer TEXT,
  studies INTEGER NOT NULL, flagged INTEGER NOT NULL,
  first_archived_at TEXT NOT NULL, last_archived_at TEXT NOT NULL, first_position INTEGER NOT NULL, year INTEGER,
  search_text TEXT
)""",
    "series": """(
  series_number INTEGER, modality TEXT, series_description TEXT, body_part TEXT, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  study_instance_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL,
  PRIMARY KEY (study_instance_uid, series_instance_uid)
) WITHOUT ROWID""",
    "patients": """(
  study_instance_uid TEXT NOT NULL, patient_name TEXT NOT NULL, patient_id TEXT NOT NULL, patient_birth_date TEXT NOT NULL,
  patient_sex TEXT NOT NULL, files INTEGER NOT NULL, first_position INTEGER NOT NULL,
  PRIMARY KEY (study_instance_uid, patient_name, patient_id, patient_birth_date, patient_sex)
) WITHOUT ROWID""",
    "damaged": "(position INTEGER PRIMARY KEY, code TEXT NOT NULL)",
    "arrivals": "(day TEXT NOT NULL, modality TEXT NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (day, modality)) WITHOUT ROWID",  # noqa: E501
    "progress": "(position INTEGER NOT NULL, ledger_id TEXT NOT NULL, leaf_hash BLOB NOT NULL)",
}

COLUMNS = {name: tuple(re.findall(r'[(,]\s*"?(\w+)"? (?:TEXT|INTEGER|BLOB)', text)) for name, text in TABLES.items()}
"""Their names, in order."""


def _places(table: str) -> Any:
    """An attribute for each column. A slot, which is found as fast as a local name: they are asked for by the million."""
    places = type(table, (), {"__slots__": COLUMNS[table]})()
    for place, column in enumerate(COLUMNS[table]):
        setattr(places, column, place)
    return places


STUDY, UPLOAD, FILE = map(_places, ("studies", "uploads", "files"))
"""Where each column stands in a row: `row[FILE.sha256]`."""

FLAGS = ("sop_conflict", "study_uid_differs", "patient_differs", "message_differs", "superseded", "unconfirmed")
"""The columns of `files` that are 1 where a person should look at the file; nothing waits for it."""

FLAGGED = f"({' OR '.join(FLAGS)})"
"""A condition for the files that have any of them. `files_flagged` is for exactly this text."""

OF_A_SERIES = ("series_number", "modality", "series_description", "body_part")
OF_A_STUDY = ("study_date", "study_description", "institution_name", "accession_number", "study_time", "manufacturer")
"""Of series and DICOM studies: each is what the first file says that has it."""

ROWID = {"studies": "first_position", "files": "position"}
"""The column that says a row's number, so that a row that changes stays where it lies."""

INDEXES = (
    "CREATE INDEX studies_by_state ON studies (state, last_position)",
    "CREATE INDEX studies_by_first ON studies (first_position)",
    "CREATE INDEX studies_by_last ON studies (last_position)",
    "CREATE INDEX studies_by_uid ON studies (study_instance_uid, state)",
    "CREATE INDEX studies_by_patient ON studies (patient_id)",
    "CREATE INDEX files_by_position ON files (position)",
    "CREATE INDEX files_by_day ON files (archived_at, bytes)",
    # The last two so that cover picture and fixity of the studies of a list are found in the index alone.
    'CREATE INDEX files_by_uid ON files (study_instance_uid, series_instance_uid, instance_number, fixity, "rows")',
    "CREATE INDEX files_damaged ON files (position) WHERE fixity IN ('missing', 'changed')",
    "CREATE INDEX files_unread ON files (dicom_error, position) WHERE dicom_error IS NOT NULL",
    f"CREATE INDEX files_flagged ON files (position) WHERE {FLAGGED}",
    "CREATE INDEX files_by_sop ON files (sop_instance_uid)",
    "CREATE INDEX files_of_no_study ON files (study_id) WHERE study_instance_uid IS NULL",
    "CREATE INDEX series_by_uid ON series (series_instance_uid)",
    "CREATE INDEX uploads_by_state ON uploads (state) WHERE state <> 'archived'",
    "CREATE INDEX dicom_studies_by_patient ON dicom_studies (patient_id)",
    "CREATE INDEX dicom_studies_by_date ON dicom_studies (study_date)",
    "CREATE INDEX dicom_studies_by_arrival ON dicom_studies (last_archived_at)",
    "CREATE INDEX dicom_studies_by_first ON dicom_studies (first_position, last_archived_at, modalities, institution_name, year)",
    # For counting alone: a facet over 100,000 studies takes 10 ms in place of 200. (For that `year` is no generated column:
    # SQLite takes no index on one for covering.)
    # Those of dicom_studies hold all that a list which one of them narrows asks for: no other page of the table is read.
    "CREATE INDEX studies_by_modality ON studies (modality)",
    "CREATE INDEX studies_by_institution ON studies (institution_name)",
    "CREATE INDEX studies_by_year ON studies (year)",
    "CREATE INDEX dicom_studies_by_modalities ON dicom_studies (modalities, last_archived_at, institution_name, year)",
    "CREATE INDEX dicom_studies_by_institution ON dicom_studies (institution_name, last_archived_at, modalities, year)",
    "CREATE INDEX dicom_studies_by_year ON dicom_studies (year, last_archived_at, modalities, institution_name)",
    "CREATE INDEX dicom_studies_by_name ON dicom_studies (patient_name)",
    "CREATE INDEX dicom_studies_by_bytes ON dicom_studies (bytes)",
    "CREATE INDEX dicom_studies_flagged ON dicom_studies (last_archived_at) WHERE flagged > 0",
)

KEYS = {"studies": "study_id", "dicom_studies": "study_instance_uid"}
SEARCHED = ("patient_name", "patient_id", "accession_number", "study_description", "search_text")
_TEXT = ", ".join(SEARCHED)

# Full-text search (sqlite.org/fts5.html). The words lie in `studies` and `dicom_studies` themselves (§4.4.3, external content):
# as they are shown, and in `search_text` the same words in other forms; see `core.search_text`.
# A row's number there is `first_position`: it is the same in an index that followed and in one that was rebuilt.
# Datasette finds these tables by `content` in double quotes only.
# Nothing is ranked by how long the text is (columnsize); only our own pages, which search DICOM studies, look for how a word begins.
SEARCH = {
    table: f"""CREATE VIRTUAL TABLE {table}_fts USING fts5 ({_TEXT}, content="{table}", content_rowid="first_position",
  tokenize="unicode61 remove_diacritics 2", columnsize=0{', prefix="2 3"' if table == "dicom_studies" else ""})"""
    for table in KEYS
}

SCHEMA = zlib.crc32(repr((TABLES, INDEXES, SEARCH, "rows 6")).encode()) & 0x7FFFFFFF
"""PRAGMA user_version of an index of this shape; "rows 6" changes when the same columns get to mean something else."""


def year(study_date: str | None) -> int | None:
    """Of a date that begins like one: before 1993 they came as 1990.12.31, and anything at all is found in the field.

    `add` says the same in SQL.
    """
    return int(study_date[:4]) if study_date and _BEGINS_WITH_A_YEAR(study_date) else None


_BEGINS_WITH_A_YEAR = re.compile("[12][0-9]{3}").match


def make_again(chosen: str) -> tuple[str, ...]:
    """SQL that makes `series` and `dicom_studies` again from `files` and `patients`, for the UIDs that `chosen` (a condition) admits."""
    return tuple(f"DELETE FROM {table} WHERE study_instance_uid {chosen}" for table in ("series", "dicom_studies")) + add(chosen)  # noqa: S608 - names and marks of ours


def make_patients_again(chosen: str) -> tuple[str, ...]:
    """The same for `patients`, which the flag `patient_differs` is set by: make them first."""
    return f"DELETE FROM patients WHERE study_instance_uid {chosen}", add_patients(chosen)  # noqa: S608 - the same


def add(chosen: str, first: int = 1) -> tuple[str, ...]:
    """SQL that adds the files whose `position` is `first` or later to `dicom_studies` and `series`; the others are in them already.

    Its cost does not grow with the files that a study has already, unless a series has several modalities.
    """
    return _add_studies(chosen, first), _add_series(chosen, first)  # the first one asks which series were there before


def add_patients(chosen: str, first: int = 1) -> str:
    """SQL that adds these files to `patients`: one row for each patient that the files of a study name."""
    names = ", ".join(f"coalesce({name}, '')" for name in PATIENT)
    return f"""
INSERT INTO patients SELECT study_instance_uid, {names}, count(*), min(position) FROM {_files(chosen, first)} GROUP BY 1, 2, 3, 4, 5
ON CONFLICT DO UPDATE SET files = files + excluded.files, first_position = min(first_position, excluded.first_position)"""  # noqa: S608 - names and marks of ours


_NO_PATIENT = 1 << 60
"""Added to the position of a file that has neither name nor ID: any other one comes before it."""


def _files(chosen: str, first: int) -> str:
    """The new ones are found by their position: SQLite would read all of the study, or of the table, to have them sorted."""
    if first == 1:
        return f"files n WHERE study_instance_uid {chosen}"
    return f"files n INDEXED BY files_by_position WHERE position >= {first} AND +study_instance_uid {chosen}"


def _firsts(columns: Sequence[str]) -> str:
    return ", ".join(f"min(CASE WHEN {column} IS NOT NULL THEN position END) AS first_{column}" for column in columns)


def _value(column: str) -> str:
    return f"(SELECT {column} FROM files WHERE position = a.first_{column}) AS {column}"  # noqa: S608 - names of ours


def _kept(columns: Sequence[str]) -> str:
    """What an earlier file says stays."""
    return ", ".join(f"{column} = coalesce({column}, excluded.{column})" for column in columns)


def _add_series(chosen: str, first: int) -> str:
    return f"""
INSERT INTO series
SELECT {", ".join(map(_value, OF_A_SERIES))}, a.files, a.bytes, a.study_instance_uid, a.series_instance_uid
FROM (SELECT study_instance_uid, series_instance_uid, {_firsts(OF_A_SERIES)}, count(*) AS files, sum(bytes) AS bytes
      FROM {_files(chosen, first)} AND series_instance_uid IS NOT NULL GROUP BY 1, 2) a
WHERE true ON CONFLICT DO UPDATE SET {_kept(OF_A_SERIES)}, files = files + excluded.files, bytes = bytes + excluded.bytes"""  # noqa: S608 - names and marks of ours


def _add_studies(chosen: str, first: int) -> str:
    known_study = known_series = known_modality = ""
    if first > 1:
        of_series = (
            "SELECT 1 FROM series s WHERE s.study_instance_uid = n.study_instance_uid AND s.series_instance_uid = n.series_instance_uid"
        )
        known_study = f"""WHEN EXISTS (SELECT 1 FROM files e WHERE e.study_id = n.study_id
               AND +e.study_instance_uid = n.study_instance_uid AND +e.position < {first}) THEN NULL"""  # noqa: S608 - a number
        known_series = f"WHEN EXISTS ({of_series}) THEN NULL"
        known_modality = f"AND NOT EXISTS ({of_series} AND s.modality = n.modality)"
    whole = ", ".join(f"{name} = CASE WHEN patient_name IS NULL AND patient_id IS NULL AND "
                      f"(excluded.patient_name IS NOT NULL OR excluded.patient_id IS NOT NULL) THEN excluded.{name} ELSE {name} END"
                      for name in PATIENT)  # fmt: skip
    value = {column: _value(column) for column in OF_A_STUDY}
    return f"""
INSERT INTO dicom_studies (
  study_instance_uid, patient_name, patient_id, study_date, modalities, study_description, series, files, bytes, institution_name,
  accession_number, patient_birth_date, patient_sex, study_time, manufacturer, studies, flagged, first_archived_at, last_archived_at,
  first_position, year)
SELECT *, CASE WHEN study_date GLOB '[12][0-9][0-9][0-9]*' THEN CAST(substr(study_date, 1, 4) AS INTEGER) END FROM (
SELECT a.study_instance_uid, p.patient_name, p.patient_id, {value["study_date"]},
       CASE WHEN a.another_modality THEN (SELECT group_concat(modality, ', ') FROM (SELECT DISTINCT modality FROM files m
          WHERE m.study_instance_uid = a.study_instance_uid AND modality IS NOT NULL ORDER BY modality)) END AS modalities,
       {value["study_description"]}, a.series, a.files, a.bytes, {value["institution_name"]},
       {value["accession_number"]}, p.patient_birth_date, p.patient_sex,
       {value["study_time"]}, {value["manufacturer"]}, a.studies, a.flagged, a.first_at, a.last_at, a.first
FROM (SELECT study_instance_uid, min(position) AS first, count(*) AS files, sum(bytes) AS bytes,
             min(position + {_NO_PATIENT} * (patient_name IS NULL AND patient_id IS NULL)) % {_NO_PATIENT} AS identity,
             count(DISTINCT CASE {known_study} WHEN true THEN study_id END) AS studies,
             count(DISTINCT CASE {known_series} WHEN true THEN series_instance_uid END) AS series, sum({FLAGGED}) AS flagged,
             min(archived_at) AS first_at, max(archived_at) AS last_at, max(modality IS NOT NULL {known_modality}) AS another_modality,
             {_firsts(OF_A_STUDY)}
      FROM {_files(chosen, first)} GROUP BY 1) a
JOIN files p ON p.position = a.identity)
WHERE true ON CONFLICT DO UPDATE SET {whole}, {_kept(OF_A_STUDY)}, modalities = coalesce(excluded.modalities, modalities),
  series = series + excluded.series, files = files + excluded.files, bytes = bytes + excluded.bytes, studies = studies + excluded.studies,
  flagged = flagged + excluded.flagged, first_archived_at = min(first_archived_at, excluded.first_archived_at),
  last_archived_at = max(last_archived_at, excluded.last_archived_at), first_position = min(first_position, excluded.first_position),
  year = CASE WHEN study_date IS NULL THEN excluded.year ELSE year END"""  # noqa: S608 - names and marks of ours


def conflicts(chosen: str) -> str:
    """SQL that flags files that share a SOP Instance UID that `chosen` admits, but not their bytes; it returns study UIDs and positions."""
    shared = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid {chosen} GROUP BY 1 HAVING count(*) > 1"  # noqa: S608 - marks of ours
    differing = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid IN ({shared}) GROUP BY 1 HAVING count(DISTINCT sha256) > 1"  # noqa: S608 - the same
    found = f"sop_conflict = 0 AND sop_instance_uid IN ({differing})"
    return f"UPDATE files SET sop_conflict = 1 WHERE {found} RETURNING study_instance_uid, position"  # noqa: S608 - the same


def undo_conflicts(chosen: str) -> str:
    """SQL that takes the flag off the files whose SOP Instance UID `chosen` admits, before `conflicts`; it returns their study UIDs."""
    return f"UPDATE files SET sop_conflict = 0 WHERE sop_conflict = 1 AND sop_instance_uid {chosen} RETURNING study_instance_uid"  # noqa: S608 - marks of ours


def arrived(first: int = 1) -> str:
    """SQL that counts into `arrivals` the files whose `archived` entry stands at position `first` or later."""
    return f"""
INSERT INTO arrivals
SELECT substr(archived_at, 1, 10), coalesce(modality, ''), count(*), sum(bytes) FROM files WHERE position >= {first} GROUP BY 1, 2
{ADD}"""  # noqa: S608 - a number


ADD = "ON CONFLICT (day, modality) DO UPDATE SET files = files + excluded.files, bytes = bytes + excluded.bytes"

ARRIVED_ONE = f"INSERT INTO arrivals VALUES (?, ?, ?, ?) {ADD}"  # noqa: S608 - a constant
"""Where `arrived` counted a file and its modality is another one now: once with what is to be taken off, once with what is to be added."""

NONE_ARRIVED = "DELETE FROM arrivals WHERE files = 0"


def forget(table: str, chosen: str) -> str:
    """SQL that takes the rows that `chosen` (a condition on the key) admits out of the search; before they change."""
    return f"INSERT INTO {table}_fts ({table}_fts, rowid, {_TEXT}) SELECT 'delete', first_position, {_TEXT} FROM {table} WHERE {KEYS[table]} {chosen}"  # noqa: E501, S608 - names and marks, all ours


def learn(table: str, chosen: str) -> str:
    """SQL that puts them in, once they have changed. Neither reads any other row."""
    return f"INSERT INTO {table}_fts (rowid, {_TEXT}) SELECT first_position, {_TEXT} FROM {table} WHERE {KEYS[table]} {chosen}"  # noqa: S608 - the same
