"""The tables of index.db. No migrations: `SCHEMA` changes with any of this, and another schema means a rebuild."""

from __future__ import annotations

import zlib

_DESCRIBED = """
  patient_id TEXT, patient_name TEXT, patient_birth_date TEXT, patient_sex TEXT,
  study_instance_uid TEXT, study_date TEXT, study_time TEXT, study_description TEXT, accession_number TEXT,
  modality TEXT, manufacturer TEXT, institution_name TEXT"""

TABLES = {
    "studies": f"""(
  study_id TEXT PRIMARY KEY, state TEXT NOT NULL, status_sent TEXT,{_DESCRIBED},
  files INTEGER NOT NULL, bytes INTEGER NOT NULL, described_at TEXT, archived_at TEXT, last_error TEXT, last_position INTEGER NOT NULL
) WITHOUT ROWID""",
    "uploads": """(
  study_id TEXT NOT NULL, upload_path TEXT NOT NULL, state TEXT NOT NULL, code TEXT, position INTEGER NOT NULL,
  PRIMARY KEY (study_id, upload_path)
) WITHOUT ROWID""",
    "files": """(
  study_id TEXT NOT NULL, name TEXT NOT NULL, original_name TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
  archive_path TEXT NOT NULL, study_instance_uid TEXT, series_instance_uid TEXT, sop_instance_uid TEXT, sop_class_uid TEXT,
  transfer_syntax_uid TEXT, modality TEXT, instance_number INTEGER, "rows" INTEGER, "columns" INTEGER, frames INTEGER,
  archived_at TEXT NOT NULL, position INTEGER NOT NULL, fixity TEXT NOT NULL, verified_at TEXT,
  dicom_error TEXT, sop_conflict INTEGER NOT NULL, study_uid_differs INTEGER NOT NULL,
  patient_id TEXT, patient_name TEXT, patient_birth_date TEXT, patient_sex TEXT, study_date TEXT, study_time TEXT,
  study_description TEXT, accession_number TEXT, institution_name TEXT, manufacturer TEXT,
  series_number INTEGER, series_description TEXT, body_part TEXT,
  PRIMARY KEY (study_id, name)
) WITHOUT ROWID""",
    "dicom_studies": """(
  study_instance_uid TEXT PRIMARY KEY, patient_id TEXT, patient_name TEXT, patient_birth_date TEXT, patient_sex TEXT,
  study_date TEXT, study_time TEXT, study_description TEXT, accession_number TEXT, modalities TEXT,
  institution_name TEXT, manufacturer TEXT, series INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  studies INTEGER NOT NULL, flagged INTEGER NOT NULL, first_archived_at TEXT NOT NULL, last_archived_at TEXT NOT NULL
) WITHOUT ROWID""",
    "series": """(
  study_instance_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, modality TEXT, series_number INTEGER,
  series_description TEXT, body_part TEXT, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (study_instance_uid, series_instance_uid)
) WITHOUT ROWID""",
    "progress": "(position INTEGER NOT NULL, ledger_id TEXT NOT NULL, leaf_hash BLOB NOT NULL)",
}

INDEXES = (
    "CREATE INDEX studies_by_state ON studies (state, last_position)",
    "CREATE INDEX studies_by_uid ON studies (study_instance_uid)",
    "CREATE INDEX studies_by_patient ON studies (patient_id)",
    "CREATE INDEX files_by_position ON files (position)",
    "CREATE INDEX files_by_uid ON files (study_instance_uid, series_instance_uid, instance_number)",
    "CREATE INDEX files_by_sop ON files (sop_instance_uid)",
    "CREATE INDEX uploads_by_state ON uploads (state) WHERE state <> 'archived'",
    "CREATE INDEX dicom_studies_by_patient ON dicom_studies (patient_id)",
    "CREATE INDEX dicom_studies_by_date ON dicom_studies (study_date)",
)

SCHEMA = zlib.crc32(repr((TABLES, INDEXES, "rows 1")).encode()) & 0x7FFFFFFF
"""PRAGMA user_version of an index of this shape; "rows 1" changes when the same columns get to mean something else."""


def refresh(prefix: str, chosen: str) -> tuple[str, str]:
    """SQL that makes `series` and `dicom_studies` again from `files`, for the UIDs that `chosen` (a condition) admits."""
    files = f"{prefix}files"
    series = f"""
INSERT OR REPLACE INTO {prefix}series
SELECT a.study_instance_uid, a.series_instance_uid, f.modality, f.series_number, f.series_description, f.body_part, a.files, a.bytes
FROM (SELECT study_instance_uid, series_instance_uid, min(position) AS first, count(*) AS files, sum(bytes) AS bytes
      FROM {files} WHERE series_instance_uid IS NOT NULL AND study_instance_uid {chosen} GROUP BY 1, 2) a
JOIN {files} f ON f.position = a.first"""  # noqa: S608 - a prefix and marks, both ours
    studies = f"""
INSERT OR REPLACE INTO {prefix}dicom_studies
SELECT a.study_instance_uid, f.patient_id, f.patient_name, f.patient_birth_date, f.patient_sex, f.study_date, f.study_time,
       f.study_description, f.accession_number,
       (SELECT group_concat(modality, ', ') FROM (SELECT DISTINCT modality FROM {files} m
          WHERE m.study_instance_uid = a.study_instance_uid AND modality IS NOT NULL ORDER BY modality)),
       f.institution_name, f.manufacturer, a.series, a.files, a.bytes, a.studies, a.flagged, a.first_at, a.last_at
FROM (SELECT study_instance_uid, min(position) AS first, count(DISTINCT series_instance_uid) AS series, count(*) AS files,
             sum(bytes) AS bytes, count(DISTINCT study_id) AS studies, sum(sop_conflict OR study_uid_differs) AS flagged,
             min(archived_at) AS first_at, max(archived_at) AS last_at
      FROM {files} WHERE study_instance_uid {chosen} GROUP BY 1) a
JOIN {files} f ON f.position = a.first"""  # noqa: S608 - a prefix and marks, both ours
    return series, studies
