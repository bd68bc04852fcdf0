"""What the tables and columns of index.db mean. scripts/reference writes docs/reference/tables.md from this and the schema.

A column that holds a DICOM attribute needs no description: `FROM_HEADER` says which one.
"""

from __future__ import annotations

from storage_ledger.index.schema import FLAGS

_STUDY_ID = "The pipeline's study_id."
_SEARCH_TEXT = "Additional words by which [the search](#studies_fts) finds this row."
_FILES = {"files": "Number of archived files.", "bytes": "Their size."}

TABLES = {
    "studies": """\
One row per study_id: one job of the pipeline, usually one file.

Name, ID, birth date and sex come from [one source](#who-the-patient-is).
Other attributes come from the last message that had a value, or else from the file's header.
""",
    "uploads": """\
One row per upload of a study; `studies.state` is derived from these.
""",
    "files": """\
One row per archived file, with the attributes of its own header, as last read.

If the header has no Study Instance UID, names no patient or is incomplete (`dicom_error`), the file's message fills the gaps.
It gives its Study Instance UID and any missing study date, time, description, accession number, modality, manufacturer and institution.
If the header has neither name nor ID, the message gives name, ID, birth date and sex, all four.
""",
    "dicom_studies": """\
One row per Study Instance UID: a CT of many slices is many rows in `studies` and one here.

Derived from `files`: the patient [as below](#who-the-patient-is), other attributes from the first file that has them.
""",
    "series": """\
One row per series of a DICOM study, derived from `files`; files without a Series Instance UID are left out.
Attributes come from the first file that has them.
""",
    "patients": """\
One row per patient named by the headers of a DICOM study's files; derived from `files`.
Several rows mean several patients, or one patient written in several ways.
Missing values are empty.
""",
    "damaged": """\
Entries left out of the index because they do not match their [hashes](hashes.md).
""",
    "arrivals": """\
One row per day and modality, for quick counts; derived from `files`.
""",
    "facets": """\
For each modality, institution and year, the number of rows of `dicom_studies` that have it.
""",
    "progress": """\
One row: how far the index has followed the ledger.
""",
    "studies_fts": """\
Full-text search over `studies` (SQLite FTS5, external content; SQLite adds tables such as `studies_fts_data`).
The tokenizer, `unicode61`, ignores case and the accents of Latin letters.
`search_text` has the words as people type them; fold those of your own queries in the same way:

- folded as [the search](http.md#what-a-search-finds) folds what is typed, so `weiss` and `weiß` find Weiß;
- the parts of a name joined (`doejane`, `janedoe`), and numbers and hyphenated words without punctuation;
- in scripts without spaces between words, every ending of a run, so `太郎` finds 山田太郎;
- dates as `ᴅ20260131` (study) and `ʙ19440506` (birth);
- for a DICOM study, the values of all its files.
""",
    "dicom_studies_fts": """\
The same for `dicom_studies`.
""",
}

COLUMNS: dict[str, dict[str, str]] = {
    "studies": _FILES | {
        "study_id": _STUDY_ID,
        "state": "`pending`, `archived`, `failed` (will be retried), `quarantined` or `discarded` (given up). "
                 "With several files, the state that most needs attention.",
        "status_sent": "Last status that the Status Service accepted.",
        "archived_at": "Time of the last `archived` entry; for an adopted file, of its archiving by the old service, if known.",
        "last_error": "[Code](error-codes.md) of the last `failed` or `quarantined` since the last `archived` entry.",
        "described_at": "Time of the first `described` entry; for an adopted file, as in `archived_at`.",
        "first_position": "Its first entry.",
        "last_position": "Its last entry.",
        "year": "Of `study_date`.",
        "search_text": _SEARCH_TEXT,
    },
    "uploads": {
        "study_id": _STUDY_ID,
        "upload_path": "Relative to UPLOADS_PATH.",
        "state": "As in `studies`, for this upload.",
        "code": "Why it failed or was quarantined.",
        "position": "Entry that put it into this state.",
    },
    "files": {
        "study_id": _STUDY_ID,
        "name": "Name in the archive.",
        "bytes": "Size.",
        "frames": "(0028,0008); NULL if the header has none: then one, if there are pixels.",
        "archived_at": "When it was first archived, by this service or the old one.",
        "position": "Its first `archived` entry; in metadata.json, its `described` entry.",
        "placed": "Last entry that recorded its bytes.",
        "fixity": "As last [verified](../how-to/verify.md): `unverified`, `intact`, `missing`, `changed`.",
        "verified_at": "When it was last verified.",
        "dicom_error": "Why header attributes are missing: a [code](error-codes.md#headers).",
        **dict.fromkeys(FLAGS, "1 if the file has this [flag](error-codes.md#flags)."),
        "described": "`described` entry whose message the file came with; the last, if several.",
        "announced": 'Patient and UIDs in that message, as JSON, if any differ from the header: `{"patient_id":"SGC-122138",…}`.',
        "from_message": "What comes from the message instead of the header: `patient` (name, ID, birth date, sex), "
                        "`study` (Study Instance UID), or both.",
        "request_attributes": '(0040,0275), as JSON: `[{"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"}]`.',
        "original_name": "Name in uploads.",
        "archive_path": "Relative to ARCHIVE_PATH.",
        "sha256": "Hex.",
    },
    "dicom_studies": _FILES | {
        "modalities": "Of all its files, sorted: `CT, SR`.",
        "series": "Number of series.",
        "studies": "Number of pipeline studies.",
        "flagged": "Number of files with a [flag](error-codes.md#flags).",
        "first_archived_at": "Of its first file.",
        "last_archived_at": "Of its last file.",
        "first_position": "`archived` entry of its first file.",
        "year": "Of `study_date`.",
        "search_text": _SEARCH_TEXT,
    },
    "series": _FILES | {"request_attributes": "As in `files`."},
    "patients": {
        "files": "Number of files that name this patient.",
        "first_position": "`archived` entry of the first of these files.",
    },
    "damaged": {
        "position": "The entry.",
        "code": "[What is wrong](error-codes.md#entries) with it.",
    },
    "arrivals": _FILES | {
        "day": "Date of `files.archived_at` (UTC): `2026-01-31`.",
        "modality": "(0008,0060); empty for files without one.",
    },
    "facets": {
        "name": "`modality`, `institution` or `year`.",
        "value": "As in `dicom_studies` (`modalities`, `institution_name`, `year`); empty for none.",
        "studies": "Number of DICOM studies with it.",
    },
    "progress": {
        "position": "Last entry in the index.",
        "ledger_id": "Of the ledger that it follows.",
        "leaf_hash": "Of the entry at `position`.",
    },
}  # fmt: skip
