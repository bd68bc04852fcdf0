"""What the pages say: titles, what each column means and in which unit, facets, order, ready-made queries.

The columns' own order is that of the tables (`index/schema.py`): then pages, CSV, JSON and `select *` agree.
"""

from __future__ import annotations

from typing import Any

from storage_ledger.domain.patient_identity import PATIENT
from storage_ledger.index.schema import KEYS, TABLES

_WHEN = "UTC, RFC 3339 with microseconds"
_DICOM_DATE = "a DICOM date: YYYYMMDD (shown as YYYY-MM-DD; filter by the eight digits)"
_DICOM_TIME = "a DICOM time: HHMMSS, perhaps with a fraction of a second"
_POSITION = "place in the ledger: 1, 2, 3 … without gaps"

_PATIENT = {
    "patient_name": "Patient's Name (0010,0010): family^given^middle^prefix^suffix",
    "patient_id": "Patient ID (0010,0020)",
    "patient_birth_date": f"Patient's Birth Date (0010,0030), {_DICOM_DATE}",
    "patient_sex": "Patient's Sex (0010,0040): M, F or O",
    "study_date": f"Study Date (0008,0020), {_DICOM_DATE}",
    "study_time": f"Study Time (0008,0030), {_DICOM_TIME}",
    "study_description": "Study Description (0008,1030)",
    "accession_number": "Accession Number (0008,0050): the order in the RIS",
    "institution_name": "Institution Name (0008,0080)",
    "manufacturer": "Manufacturer (0008,0070) of the equipment",
}

COLUMNS: dict[str, dict[str, dict[str, str]]] = {
    "index": {
        "dicom_studies": {
            "study_instance_uid": "Study Instance UID (0020,000D)",
            **_PATIENT,
            "modalities": "Modalities (0008,0060) of its files, in alphabetical order",
            "series": "How many series it has",
            "files": "How many files it has",
            "bytes": "Size of its files together, in bytes",
            "studies": "How many pipeline studies brought its files",
            "flagged": "How many of its files are flagged: those for which one of the flags of files is 1",
            "first_archived_at": f"When its first file was archived; {_WHEN}",
            "last_archived_at": f"When its newest file was archived; {_WHEN}",
            "first_position": f"Entry that archived its first file; {_POSITION}",
            "year": "Year of the study date",
            "search_text": "Further words by which a search finds this row: names joined, accents removed, dates, values of all files",
        },
        "studies": {
            "study_id": "The pipeline's study_id: one job of the pipeline, often one file",
            **_PATIENT,
            "modality": "Modality (0008,0060)",
            "state": "pending, archived, failed (will be tried again), quarantined (waits for a person) or discarded",
            "status_sent": "The last status that the Status Service accepted",
            "files": "How many files of it are in the archive",
            "bytes": "Size of these files together, in bytes",
            "archived_at": f"When its newest file was archived; {_WHEN}",
            "last_error": "Code of what went wrong last; empty once it is archived",
            "described_at": f"When its first event was recorded; {_WHEN}",
            "study_instance_uid": "Study Instance UID (0020,000D), as the event says, or else the file",
            "first_position": f"Its first entry; {_POSITION}",
            "last_position": f"Its newest entry; {_POSITION}",
            "year": "Year of the study date",
            "search_text": "Further words by which a search finds this row: names joined, accents removed, dates, values of all files",
        },
        "series": {
            "series_number": "Series Number (0020,0011)",
            "modality": "Modality (0008,0060)",
            "series_description": "Series Description (0008,103E)",
            "body_part": "Body Part Examined (0018,0015)",
            "files": "How many files it has",
            "bytes": "Size of its files together, in bytes",
            "study_instance_uid": "Study Instance UID (0020,000D); the message's where the header has none",
            "series_instance_uid": "Series Instance UID (0020,000E)",
        },
        "files": {
            "study_id": "The pipeline study that brought it",
            "name": "Its name in the archive",
            **_PATIENT,
            "modality": "Modality (0008,0060)",
            "series_number": "Series Number (0020,0011)",
            "series_description": "Series Description (0008,103E)",
            "instance_number": "Instance Number (0020,0013)",
            "bytes": "Size, in bytes",
            "rows": "Rows (0028,0010): height of the image, in pixels",
            "columns": "Columns (0028,0011): width of the image, in pixels",
            "frames": "Number of Frames (0028,0008); empty for a single one",
            "body_part": "Body Part Examined (0018,0015)",
            "archived_at": f"When it was archived; {_WHEN}",
            "position": f"Entry that says so; {_POSITION}",
            "placed": f"The last entry that put its bytes there; {_POSITION}",
            "fixity": "Whether the archive still holds these bytes: unverified, intact, missing or changed",
            "verified_at": f"When that was last looked at; {_WHEN}",
            "dicom_error": "Code of why its header could not be read, or only in part; it is archived all the same",
            "sop_conflict": "1: another file has the same SOP Instance UID and other bytes",
            "study_uid_differs": "1: its Study Instance UID is not the one that its message gives",
            "patient_differs": "1: another file of its DICOM study names another patient",
            "message_differs": "1: its message names another patient, study, series or instance than its header",
            "superseded": "1: an earlier, incomplete state of an upload; a later state is in the archive as well",
            "unconfirmed": "1: its last message came when the upload was gone, and was never seen together with the file",
            "described": f"Entry with the message that the file came with, of several the last; {_POSITION}",
            "announced": "What that message says of patient and UIDs, as JSON; empty where it agrees with the header",
            "from_message": "What the message says in the place of a header that cannot be read or does not tell: patient, study, or both",
            "original_name": "Its name in uploads",
            "archive_path": "Where it lies, relative to ARCHIVE_PATH",
            "sha256": "SHA-256 of its bytes, hexadecimal",
            "study_instance_uid": "Study Instance UID (0020,000D)",
            "series_instance_uid": "Series Instance UID (0020,000E)",
            "sop_instance_uid": "SOP Instance UID (0008,0018)",
            "sop_class_uid": "SOP Class UID (0008,0016): what kind of object it is",
            "transfer_syntax_uid": "Transfer Syntax UID (0002,0010): how it is encoded",
        },
        "patients": {
            "study_instance_uid": "Study Instance UID (0020,000D)",
            **{name: f"{_PATIENT[name]}; empty where the files name none" for name in PATIENT},
            "files": "How many files of the study name this patient",
            "first_position": f"Entry that archived the first of them; {_POSITION}",
        },
        "uploads": {
            "study_id": "The pipeline's study_id",
            "upload_path": "The file, relative to UPLOADS_PATH",
            "state": "pending, archived, failed, quarantined or discarded",
            "code": "Code of what went wrong",
            "position": f"Entry that put it into this state; {_POSITION}",
        },
        "damaged": {
            "position": f"Entry that is not in the index; {_POSITION}",
            "code": "What of it is not as its hashes say",
        },
        "arrivals": {
            "day": "Day on which the files were archived, UTC",
            "modality": "Modality (0008,0060); empty for files without one",
            "files": "How many files",
            "bytes": "Size of these files together, in bytes",
        },
        "progress": {
            "position": f"How far the index has followed the ledger; {_POSITION}",
            "ledger_id": "The ledger that it follows",
            "leaf_hash": "leaf_hash of that entry",
        },
    },
    "ledger": {
        "entries": {
            "position": f"Its {_POSITION}",
            "entry_id": "UUID, version 7",
            "study_id": "The pipeline's study_id; empty for what belongs to none",
            "version": "Its place among the entries of its study: 1, 2, 3 …",
            "kind": "described, rejected, archived, failed, recovered, quarantined, released, discarded, status-sent, verified, "
            "restored, acknowledged",
            "schema": "Version of the shape of the payload",
            "recorded_at": f"When it was recorded, never earlier than the entry before; {_WHEN}",
            "cause": "Position of the entry that led to this one",
            "payload": "The fact itself: canonical JSON",
            "payload_sha256": "SHA-256 of salt and payload, hexadecimal",
            "salt": "16 random bytes, so that a payload can be erased and the proof still stands",
            "leaf_hash": "SHA-256 of all the other columns but payload and salt: a leaf of an RFC 6962 tree",
        },
        "pending": {
            "position": f"Entry because of which something is to be done; {_POSITION}",
            "stage": "What: place (the file into the archive), remove (the upload), tell (the Status Service), confirm (read it back)",
            "not_before": f"When it is tried next; {_WHEN}",
            "attempts": "How often it was tried in vain",
        },
        "meta": {"name": "ledger_id: what all copies of this ledger have in common", "value": "Its value"},
    },
}
"""What each column means: database → table → column → text."""

HIDDEN = {
    "index": [
        "patients",
        "uploads",
        "arrivals",
        "damaged",
        "progress",
        *(f"{table}_fts" for table in KEYS),
        *(f"rebuild_{table}" for table in TABLES),
    ],
    "ledger": ["meta", "alembic_version"],
}

_TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "index": {
        "dicom_studies": {
            "title": "DICOM studies",
            "description": "What a person calls a study, by Study Instance UID: built from the headers of the archived files.",
            "sort_desc": "last_archived_at",
            "facets": ["modalities", "institution_name", "year"],
        },
        "studies": {
            "title": "Pipeline studies",
            "description": "What the pipeline calls a study, by study_id: often one file. The state leads to all that happened.",
            "sort_desc": "last_position",
            "facets": ["state", "modality", "institution_name", "year"],
        },
        "series": {"title": "Series", "description": "The series of the DICOM studies."},
        "files": {"title": "Files", "description": "The files of the archive.", "sort_desc": "position"},
        "uploads": {"title": "Uploads", "description": "What became of each upload."},
        "damaged": {"title": "Damaged entries", "description": "Entries that are not what their hashes say: the index is without them."},
        "arrivals": {"title": "Arrivals", "description": "What was archived, per day and modality."},
        "progress": {"title": "Progress", "description": "How far the index is."},
    },
    "ledger": {
        "entries": {
            "title": "Entries",
            "description": "The log of facts. Nothing here is ever changed or removed; everything else is made from it.",
            "sort_desc": "position",
        },
        "pending": {"title": "To do", "description": "What is still to be done, and because of which entry."},
        "meta": {"title": "Meta", "description": "What is known of the ledger itself."},
    },
}

_WHAT = """case kind
    when 'described' then payload ->> '$.upload_path' || ' (' || (payload ->> '$.source') || ')'
    when 'archived' then payload ->> '$.file.name' || ', ' || (payload ->> '$.placement')
    when 'status-sent' then payload ->> '$.status'
    when 'restored' then payload ->> '$.file.name' || ' from ' || coalesce(payload ->> '$.source', '?')
    when 'released' then 'by ' || (payload ->> '$.by') || ': ' || (payload ->> '$.reason')
    when 'discarded' then 'by ' || (payload ->> '$.by') || ': ' || (payload ->> '$.reason')
    when 'acknowledged' then (payload ->> '$.code') || ', by ' || (payload ->> '$.by') || ': ' || (payload ->> '$.reason')
    when 'verified' then payload ->> '$.by' || ': ' || (payload ->> '$.counts.findings') || ' findings'
    else coalesce(payload ->> '$.code', payload ->> '$.reason', '')
  end"""

QUERIES: dict[str, dict[str, dict[str, Any]]] = {
    "index": {
        "failed_by_code": {
            "title": "What failed, by code",
            "description": "Files that are not in the archive because something went wrong: why, how many, and since which entry.",
            "sql": """
select code, state, count(*) as files, min(position) as position from uploads
where state <> 'archived' and state in ('failed', 'quarantined') group by code, state order by files desc""",
        },
        "archived_per_day": {
            "title": "Archived per day",
            "description": "Files and bytes of the last 90 days (UTC).",
            "sql": """
select substr(archived_at, 1, 10) as day, count(*) as files, sum(bytes) as bytes from files
where archived_at >= date('now', '-90 days') group by day order by day desc""",
        },
    },
    "ledger": {
        "waiting_longest": {
            "title": "What waits longest",
            "description": "What is still to be done, the oldest first: which step, since when, how often it was tried, when it is next.",
            "sql": """
select e.study_id, p.stage, e.recorded_at as since_at, p.attempts, p.not_before as next_at, p.position
from pending p join entries e on e.position = p.position where p.stage <> 'confirm' order by p.position limit 200""",
        },
        "what_happened": {
            "title": "What happened to a study",
            "description": "All that the ledger knows of one study_id, in the order in which it happened.",
            "sql": f"""
select position, recorded_at, kind, {_WHAT} as what, cause, payload
from entries where study_id = :study_id order by version""",  # noqa: S608 - ours
        },
        "what_happened_between": {
            "title": "What happened between two times",
            "description": "Entries from one time (UTC, such as 2026-01-31T08:00) until before another, the first 1,000.",
            # Positions and times rise together: the first is found by halving, in twenty steps of a million.
            "sql": f"""
with recursive halves (low, high) as (
  select 0, coalesce((select max(position) from entries), 0) + 1
  union all
  select iif(recorded_at < replace(:since, ' ', 'T'), position, low), iif(recorded_at < replace(:since, ' ', 'T'), high, (low + high) / 2)
  from halves left join entries on position = (low + high) / 2 where high - low > 1)
select position, recorded_at, kind, study_id, {_WHAT} as what, cause from entries
where position >= (select min(high) from halves) and recorded_at < coalesce(nullif(replace(:until, ' ', 'T'), ''), '9')
order by position limit 1000""",  # noqa: S608 - ours
        },
        "outages": {
            "title": "Outages",
            "description": "What all studies had to wait for, the newest first: since when, until when (empty: it goes on), at which step.",
            "sql": """
select f.recorded_at as began_at, r.recorded_at as ended_at, f.payload ->> '$.code' as code, f.payload ->> '$.step' as step,
  f.position, r.position as ended_position
from entries f left join entries r on r.study_id is null and r.kind = 'recovered' and r.cause = f.position
where f.study_id is null and f.kind = 'failed' order by f.position desc limit 200""",
        },
    },
}

_DATABASES = {
    "index": "What was archived, by study and file. Made from the ledger, and can be made from it again.",
    "ledger": "What happened, entry by entry.",
}


def table_metadata(allow: dict[str, list[str]] | None) -> dict[str, Any]:
    """All of it in Datasette's shape; `allow` says who may see it, None is everybody."""
    databases = {
        name: {
            "description": text,
            "tables": {**{table: {"hidden": True} for table in HIDDEN[name]}, **_tables(name)},
            "queries": {query: {"hide_sql": True, **told, "sql": told["sql"].strip()} for query, told in QUERIES[name].items()},
        }
        for name, text in _DATABASES.items()
    }
    whole: dict[str, Any] = {"title": "storage-ledger", "databases": databases}
    return whole if allow is None else {**whole, "allow": allow}


def _tables(database: str) -> dict[str, dict[str, Any]]:
    found = {}
    for table, about in _TABLES[database].items():
        # Found by hand, too, where Datasette would look for a rowid, which these tables do not have.
        search = {"fts_table": f"{table}_fts", "fts_pk": "first_position"} if table in KEYS else {}
        hidden = {"hidden": True} if table in HIDDEN[database] else {}
        found[table] = {**about, **search, **hidden, "columns": COLUMNS[database][table]}
    return found
