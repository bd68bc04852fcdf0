"""What an index.db looks like, and what one says of itself.

There are no migrations: `SCHEMA` changes with any of this, and an index of another schema is rebuilt.
"""

from __future__ import annotations

import re
import zlib
from contextlib import closing
from functools import cache
from typing import Any

from storage_ledger.domain.entries import Entry
from storage_ledger.system.sqlite import sqlite

# Columns stand in the order in which people read them: pages, CSV and `select *` all follow it.
# The large ones have a rowid besides their key (`ROWID`): their rows lie in the order in which they came, so that a rebuild only
# ever appends, and each of their many indexes holds eight bytes a row in place of a whole key.
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
# as they are shown, and in `search_text` the same words in other forms; see `domain.search_text`.
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

SHADOW = "rebuild_"
"""Prefix of the tables that a rebuild fills; they lose it when they take the place of the old ones."""


def schema(connection: Any) -> set[tuple[str, str, str]]:
    """Tables, indexes, views and triggers with their SQL, except SQLite's own and those of a rebuild."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(row[0], row[1], row[2]) for row in rows if not row[1].startswith((SHADOW, "sqlite_"))}


@cache
def right_schema() -> frozenset[tuple[str, str, str]]:
    """The schema that a rebuild makes."""
    with closing(sqlite.connect(":memory:")) as connection:
        for name, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {SHADOW}{name} {columns}")
        for name in TABLES:
            connection.execute(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
        for statement in (*INDEXES, *SEARCH.values()):
            connection.execute(statement)
        return frozenset(schema(connection))


def schema_version(connection: Any) -> int:
    """Rises with each change of the schema (sqlite.org/pragma.html#pragma_schema_version)."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def progress_of(connection: Any) -> tuple[int, str, bytes] | None:
    """How far an index of this schema has come: position, ledger_id, leaf_hash. None if it has another schema, or is garbage."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        return None
    rows = connection.execute("SELECT position, ledger_id, leaf_hash FROM progress").fetchall()
    if [tuple(map(type, row)) for row in rows] != [(int, str, bytes)] or rows[0][0] < 0:
        return None
    return rows[0][0], rows[0][1], rows[0][2]


def set_progress(connection: Any, last: Entry | None, ledger_id: str) -> None:
    """The index holds all of this ledger up to `last`."""
    connection.execute("DELETE FROM progress")
    values = (last.position, ledger_id, last.leaf_hash) if last else (0, ledger_id, b"")
    connection.execute("INSERT INTO progress VALUES (?, ?, ?)", values)
