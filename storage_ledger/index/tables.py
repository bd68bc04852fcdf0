"""The tables of index.db. No migrations: `SCHEMA` changes with any of this, and another schema means a rebuild."""

from __future__ import annotations

import re
import zlib
from typing import Any

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
    "CREATE INDEX files_flagged ON files (position) WHERE sop_conflict OR study_uid_differs",
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

SCHEMA = zlib.crc32(repr((TABLES, INDEXES, SEARCH, "rows 5")).encode()) & 0x7FFFFFFF
"""PRAGMA user_version of an index of this shape; "rows 5" changes when the same columns get to mean something else."""


def year(study_date: str | None) -> int | None:
    """Of a date that begins like one: before 1993 they came as 1990.12.31, and anything at all is found in the field.

    `refresh` says the same in SQL.
    """
    return int(study_date[:4]) if study_date and _BEGINS_WITH_A_YEAR(study_date) else None


_BEGINS_WITH_A_YEAR = re.compile("[12][0-9]{3}").match


def refresh(chosen: str) -> tuple[str, str]:
    """SQL that makes `series` and `dicom_studies` again from `files`, for the UIDs that `chosen` (a condition) admits."""
    series = f"""
INSERT OR REPLACE INTO series
SELECT f.series_number, f.modality, f.series_description, f.body_part, a.files, a.bytes, a.study_instance_uid, a.series_instance_uid
FROM (SELECT study_instance_uid, series_instance_uid, min(position) AS first, count(*) AS files, sum(bytes) AS bytes
      FROM files WHERE series_instance_uid IS NOT NULL AND study_instance_uid {chosen} GROUP BY 1, 2) a
JOIN files f ON f.position = a.first"""  # noqa: S608 - marks of ours
    studies = f"""
INSERT OR REPLACE INTO dicom_studies
SELECT a.study_instance_uid, f.patient_name, f.patient_id, f.study_date,
       (SELECT group_concat(modality, ', ') FROM (SELECT DISTINCT modality FROM files m
          WHERE m.study_instance_uid = a.study_instance_uid AND modality IS NOT NULL ORDER BY modality)),
       f.study_description, a.series, a.files, a.bytes, f.institution_name, f.accession_number,
       f.patient_birth_date, f.patient_sex, f.study_time, f.manufacturer, a.studies, a.flagged, a.first_at, a.last_at, a.first,
       CASE WHEN f.study_date GLOB '[12][0-9][0-9][0-9]*' THEN CAST(substr(f.study_date, 1, 4) AS INTEGER) END, NULL
FROM (SELECT study_instance_uid, min(position) AS first, count(DISTINCT series_instance_uid) AS series, count(*) AS files,
             sum(bytes) AS bytes, count(DISTINCT study_id) AS studies, sum(sop_conflict OR study_uid_differs) AS flagged,
             min(archived_at) AS first_at, max(archived_at) AS last_at
      FROM files WHERE study_instance_uid {chosen} GROUP BY 1) a
JOIN files f ON f.position = a.first"""  # noqa: S608 - marks of ours
    return series, studies


def conflicts(chosen: str) -> str:
    """SQL that flags files that share a SOP Instance UID that `chosen` admits, but not their bytes; it returns their study UIDs."""
    shared = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid {chosen} GROUP BY 1 HAVING count(*) > 1"  # noqa: S608 - marks of ours
    differing = f"SELECT sop_instance_uid FROM files WHERE sop_instance_uid IN ({shared}) GROUP BY 1 HAVING count(DISTINCT sha256) > 1"  # noqa: S608 - the same
    return f"UPDATE files SET sop_conflict = 1 WHERE sop_conflict = 0 AND sop_instance_uid IN ({differing}) RETURNING study_instance_uid"  # noqa: S608 - the same


def arrived(first: int = 1) -> str:
    """SQL that counts into `arrivals` the files whose `archived` entry stands at position `first` or later."""
    return f"""
INSERT INTO arrivals
SELECT substr(archived_at, 1, 10), coalesce(modality, ''), count(*), sum(bytes) FROM files WHERE position >= {first} GROUP BY 1, 2
{ADD}"""  # noqa: S608 - a number


ADD = "ON CONFLICT (day, modality) DO UPDATE SET files = files + excluded.files, bytes = bytes + excluded.bytes"


def forget(table: str, chosen: str) -> str:
    """SQL that takes the rows that `chosen` (a condition on the key) admits out of the search; before they change."""
    return f"INSERT INTO {table}_fts ({table}_fts, rowid, {_TEXT}) SELECT 'delete', first_position, {_TEXT} FROM {table} WHERE {KEYS[table]} {chosen}"  # noqa: E501, S608 - names and marks, all ours


def learn(table: str, chosen: str) -> str:
    """SQL that puts them in, once they have changed. Neither reads any other row."""
    return f"INSERT INTO {table}_fts (rowid, {_TEXT}) SELECT first_position, {_TEXT} FROM {table} WHERE {KEYS[table]} {chosen}"  # noqa: S608 - the same
