"""The schema of index.db, and how far an index has followed its ledger.

There are no migrations: any change here changes `SCHEMA`, and an index with another schema is rebuilt.
"""

from __future__ import annotations

import re
import zlib
from contextlib import closing
from functools import cache
from typing import Any

from storage_ledger.domain.entries import Entry
from storage_ledger.system.sqlite import sqlite

# Columns are in reading order: web pages, CSV and `SELECT *` follow it.
# The large tables keep a rowid beside their key (`ROWID`): rows are stored in order of arrival, so a rebuild only appends, and each of
# their many indexes holds an integer per row instead of the whole key.
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
  referring_physician_name TEXT, dicom_study_id TEXT, performed_date TEXT, performed_time TEXT,
  request_attributes TEXT,
  original_name TEXT NOT NULL, archive_path TEXT NOT NULL, sha256 TEXT NOT NULL, study_instance_uid TEXT, series_instance_uid TEXT,
  sop_instance_uid TEXT, sop_class_uid TEXT, transfer_syntax_uid TEXT,
  PRIMARY KEY (study_id, name)
)""",
    "dicom_studies": """(
  study_instance_uid TEXT PRIMARY KEY NOT NULL, patient_name TEXT, patient_id TEXT, study_date TEXT, modalities TEXT,
  study_description TEXT, series INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  institution_name TEXT, accession_number TEXT, patient_birth_date TEXT, patient_sex TEXT, study_time TEXT, manufacturer TEXT,
  referring_physician_name TEXT, dicom_study_id TEXT,
  studies INTEGER NOT NULL, flagged INTEGER NOT NULL,
  first_archived_at TEXT NOT NULL, last_archived_at TEXT NOT NULL, first_position INTEGER NOT NULL, year INTEGER,
  search_text TEXT
)""",
    "series": """(
  series_number INTEGER, modality TEXT, series_description TEXT, body_part TEXT, performed_date TEXT, performed_time TEXT,
  request_attributes TEXT, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
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
    "facets": "(name TEXT NOT NULL, value TEXT NOT NULL, studies INTEGER NOT NULL, PRIMARY KEY (name, value)) WITHOUT ROWID",
    "progress": "(position INTEGER NOT NULL, ledger_id TEXT NOT NULL, leaf_hash BLOB NOT NULL)",
}

COLUMNS = {name: tuple(re.findall(r'[(,]\s*"?(\w+)"? (?:TEXT|INTEGER|BLOB)', text)) for name, text in TABLES.items()}
"""The column names of each table, in order."""


FLAGS = ("sop_conflict", "study_uid_differs", "patient_differs", "message_differs", "superseded", "unconfirmed")
"""The columns of `files` that are 1 if a person should review the file. They block nothing."""

FLAGGED = f"({' OR '.join(FLAGS)})"
"""SQL condition for files with any flag. The partial index `files_flagged` is used for exactly this text."""

OF_A_SERIES = (
    "series_number", "modality", "series_description", "body_part", "performed_date", "performed_time", "request_attributes",
)  # fmt: skip
OF_A_STUDY = (
    "study_date", "study_description", "institution_name", "accession_number", "study_time", "manufacturer", "referring_physician_name",
    "dicom_study_id",
)  # fmt: skip
"""Columns of `series` and of `dicom_studies` that take their value from the first file that has one."""

ROWID = {"studies": "first_position", "files": "position"}
"""The column whose value is also the rowid, so that a changed row stays in its place."""

INDEXES = (
    "CREATE INDEX studies_by_state ON studies (state, last_position)",
    "CREATE INDEX studies_by_first ON studies (first_position)",
    "CREATE INDEX studies_by_last ON studies (last_position)",
    "CREATE INDEX studies_by_uid ON studies (study_instance_uid, state)",
    "CREATE INDEX studies_by_patient ON studies (patient_id)",
    "CREATE INDEX files_by_position ON files (position)",
    "CREATE INDEX files_by_day ON files (archived_at, bytes)",
    # The last two columns let a list of studies find cover images and fixity in the index alone.
    'CREATE INDEX files_by_uid ON files (study_instance_uid, series_instance_uid, instance_number, fixity, "rows")',
    "CREATE INDEX files_damaged ON files (position) WHERE fixity IN ('missing', 'changed')",
    # Only files that were read: archiving a file does not touch it.
    "CREATE INDEX files_verified ON files (verified_at) WHERE verified_at IS NOT NULL",
    "CREATE INDEX files_unread ON files (dicom_error, position) WHERE dicom_error IS NOT NULL",
    f"CREATE INDEX files_flagged ON files (position) WHERE {FLAGGED}",
    "CREATE INDEX files_by_sop ON files (sop_instance_uid)",
    "CREATE INDEX files_of_no_study ON files (study_id) WHERE study_instance_uid IS NULL",
    "CREATE INDEX series_by_uid ON series (series_instance_uid)",
    "CREATE INDEX uploads_by_state ON uploads (state) WHERE state <> 'archived'",
    "CREATE INDEX dicom_studies_by_patient ON dicom_studies (patient_id)",
    "CREATE INDEX dicom_studies_by_accession ON dicom_studies (accession_number)",
    "CREATE INDEX dicom_studies_by_date ON dicom_studies (study_date)",
    "CREATE INDEX dicom_studies_by_arrival ON dicom_studies (last_archived_at)",
    "CREATE INDEX dicom_studies_by_first ON dicom_studies (first_position, last_archived_at, modalities, institution_name, year)",
    # For counting only: a facet over 100,000 studies takes 10 ms instead of 200. (That is why `year` is not a generated column:
    # SQLite does not use an index on one as a covering index.)
    # Those on dicom_studies cover everything that a list filtered by their first column reads.
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

FACETS = {"modality": "modalities", "institution": "institution_name", "year": "year"}
"""The names in the table `facets`, and the column of `dicom_studies` whose values each counts."""


def _of(row: str, more: str = "") -> str:
    return ", ".join(f"('{name}', CAST(coalesce({row}.{column}, '') AS TEXT){more})" for name, column in FACETS.items())


_MORE = f"INSERT INTO facets VALUES {_of('NEW', ', 1')} ON CONFLICT DO UPDATE SET studies = studies + 1;"  # noqa: S608 - names of ours
_LESS = f"UPDATE facets SET studies = studies - 1 WHERE (name, value) IN (VALUES {_of('OLD')});"  # noqa: S608 - as above
_NO_ZEROS = f"DELETE FROM facets WHERE studies = 0 AND (name, value) IN (VALUES {_of('OLD')});"  # noqa: S608 - as above
_UPDATED = f"UPDATE OF {', '.join(FACETS.values())}"
_CHANGED = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in FACETS.values())

TRIGGERS = (
    f"CREATE TRIGGER facets_of_new AFTER INSERT ON dicom_studies BEGIN {_MORE} END",
    f"CREATE TRIGGER facets_of_removed AFTER DELETE ON dicom_studies BEGIN {_LESS} {_NO_ZEROS} END",
    f"CREATE TRIGGER facets_of_changed AFTER {_UPDATED} ON dicom_studies WHEN {_CHANGED} BEGIN {_LESS} {_MORE} {_NO_ZEROS} END",
)
"""Keep `facets`, whatever statement writes `dicom_studies`: counting millions of rows would take longer than a page may."""

FILL_FACETS = tuple(
    f"INSERT INTO facets SELECT '{name}', CAST(coalesce({column}, '') AS TEXT), count(*) FROM dicom_studies GROUP BY 2"  # noqa: S608 - as above
    for name, column in FACETS.items()
)
"""SQL that counts them all, for a new index."""

KEYS = {"studies": "study_id", "dicom_studies": "study_instance_uid"}
SEARCHED = ("patient_name", "patient_id", "accession_number", "study_description", "search_text")
_TEXT = ", ".join(SEARCHED)

# Full-text search (sqlite.org/fts5.html). The words are in `studies` and `dicom_studies` themselves (§4.4.3, external content):
# as displayed, and in `search_text` in other forms; see `domain.search_text`.
# The rowid is `first_position`: it is the same in an index that followed the ledger and in one that was rebuilt.
# Datasette recognises these tables only if `content` is in double quotes.
# columnsize=0, because nothing is ranked by text length; prefix only for DICOM studies, because only their pages search by prefix.
SEARCH = {
    table: f"""CREATE VIRTUAL TABLE {table}_fts USING fts5 ({_TEXT}, content="{table}", content_rowid="first_position",
  tokenize="unicode61 remove_diacritics 2", columnsize=0{', prefix="2 3"' if table == "dicom_studies" else ""})"""
    for table in KEYS
}

SCHEMA = zlib.crc32(repr((TABLES, INDEXES, SEARCH, TRIGGERS, "rows 6")).encode()) & 0x7FFFFFFF
"""PRAGMA user_version of an index with this schema. Change "rows 6" when existing columns change their meaning."""

SHADOW = "rebuild_"
"""Prefix of the tables that a rebuild fills; they lose it when they replace the old ones."""


def schema(connection: Any) -> set[tuple[str, str, str]]:
    """Return type, name and SQL of all tables, indexes, views and triggers, except SQLite's own and those of a rebuild."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(row[0], row[1], row[2]) for row in rows if not row[1].startswith((SHADOW, "sqlite_"))}


@cache
def right_schema() -> frozenset[tuple[str, str, str]]:
    """Return the schema that a rebuild creates."""
    with closing(sqlite.connect(":memory:")) as connection:
        for name, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {SHADOW}{name} {columns}")
        for name in TABLES:
            connection.execute(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
        for statement in (*INDEXES, *SEARCH.values(), *TRIGGERS):
            connection.execute(statement)
        return frozenset(schema(connection))


def schema_version(connection: Any) -> int:
    """Return SQLite's counter of schema changes (sqlite.org/pragma.html#pragma_schema_version)."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def progress_of(connection: Any) -> tuple[int, str, bytes] | None:
    """Return the position that the index has reached, with ledger_id and leaf_hash; None if it has another schema or is garbage."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        return None
    rows = connection.execute("SELECT position, ledger_id, leaf_hash FROM progress").fetchall()
    if [tuple(map(type, row)) for row in rows] != [(int, str, bytes)] or rows[0][0] < 0:
        return None
    return rows[0][0], rows[0][1], rows[0][2]


def set_progress(connection: Any, last: Entry | None, ledger_id: str) -> None:
    """Record that the index holds all entries of this ledger up to `last`."""
    connection.execute("DELETE FROM progress")
    values = (last.position, ledger_id, last.leaf_hash) if last else (0, ledger_id, b"")
    connection.execute("INSERT INTO progress VALUES (?, ?, ?)", values)
