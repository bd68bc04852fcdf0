"""Texts and options of the data pages: titles, column descriptions, facets, order, saved queries.

Columns keep the order of the tables (`index/schema.py`), so that pages, CSV, JSON and `select *` agree.
"""

from __future__ import annotations

from typing import Any

from storage_ledger.domain.error_catalogue.explanation import plain
from storage_ledger.index import descriptions as index
from storage_ledger.index import schema
from storage_ledger.index.column_sources import FROM_HEADER
from storage_ledger.index.schema import KEYS, TABLES
from storage_ledger.ledger import descriptions as ledger


def _meaning(texts: dict[str, str], column: str) -> str:
    """Return the description of a column, or the DICOM attribute that it holds."""
    if column in texts:
        return plain(texts[column], backticks=False)
    keyword = FROM_HEADER[column]
    form = ": YYYYMMDD, shown as YYYY-MM-DD; filter by the eight digits" if keyword.endswith("Date") else ""
    return f"DICOM attribute {keyword}{form}."


COLUMNS: dict[str, dict[str, dict[str, str]]] = {
    "index": {table: {column: _meaning(index.COLUMNS[table], column) for column in columns} for table, columns in schema.COLUMNS.items()},
    "ledger": {
        table: {column: _meaning(ledger.COLUMNS[table], column) for column in ledger.COLUMNS[table]}
        for table in ("entries", "pending", "meta")
    },
}
"""Database → table → column → what it means."""

HIDDEN = {
    "index": [
        "patients",
        "uploads",
        "arrivals",
        "facets",
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
            "description": "One row per Study Instance UID, derived from the headers of the archived files.",
            "sort_desc": "last_archived_at",
            "facets": ["modalities", "institution_name", "year"],
        },
        "studies": {
            "title": "Pipeline studies",
            "description": "One row per study_id: one job of the pipeline, usually one file. The state links to its history.",
            "sort_desc": "last_position",
            "facets": ["state", "modality", "institution_name", "year"],
        },
        "series": {"title": "Series", "description": "The series of the DICOM studies."},
        "files": {"title": "Files", "description": "The archived files.", "sort_desc": "position"},
        "uploads": {"title": "Uploads", "description": "The state of each upload."},
        "damaged": {"title": "Damaged entries", "description": "Entries that do not match their hashes; the index leaves them out."},
        "arrivals": {"title": "Arrivals", "description": "Archived files per day and modality."},
        "facets": {"title": "Facets", "description": "DICOM studies per modality, institution and year."},
        "progress": {"title": "Progress", "description": "How far the index has followed the ledger."},
    },
    "ledger": {
        "entries": {
            "title": "Entries",
            "description": "The append-only log. Entries are never changed or removed; everything else is computed from them.",
            "sort_desc": "position",
        },
        "pending": {"title": "Work queue", "description": "Pending work items, and the entry that caused each."},
        "meta": {"title": "Meta", "description": "Facts about the ledger itself."},
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
    when 'key' then payload ->> '$.vkey'
    when 'verified' then payload ->> '$.by' || ': ' || (payload ->> '$.counts.findings') || ' findings'
    else coalesce(payload ->> '$.code', payload ->> '$.reason', '')
  end"""

QUERIES: dict[str, dict[str, dict[str, Any]]] = {
    "index": {
        "failed_by_code": {
            "title": "Failures by code",
            "description": "Files that could not be archived: the code, how many, and the first entry.",
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
            "title": "Oldest work items",
            "description": "Pending work, oldest first: stage, since when, failed attempts, next attempt.",
            "sql": """
select e.study_id, p.stage, e.recorded_at as since_at, p.attempts, p.not_before as next_at, p.position
from pending p join entries e on e.position = p.position where p.stage <> 'confirm' order by p.position limit 200""",
        },
        "what_happened": {
            "title": "History of a study",
            "description": "All entries of one study_id, in order.",
            "sql": f"""
select position, recorded_at, kind, {_WHAT} as what, cause, payload
from entries where study_id = :study_id order by version""",  # noqa: S608 - ours
        },
        "what_happened_between": {
            "title": "Entries between two times",
            "description": "The first 1,000 entries from one time (UTC, such as 2026-01-31T08:00) until before another.",
            # Positions and times rise together, so a binary search finds the first one: twenty steps in a million.
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
            "description": "Outages, newest first: start, end (empty: still ongoing), code and step.",
            "sql": """
select f.recorded_at as began_at, r.recorded_at as ended_at, f.payload ->> '$.code' as code, f.payload ->> '$.step' as step,
  f.position, r.position as ended_position
from entries f left join entries r on r.study_id is null and r.kind = 'recovered' and r.cause = f.position
where f.study_id is null and f.kind = 'failed' order by f.position desc limit 200""",
        },
    },
}

_DATABASES = {
    "index": "Archived studies and files, searchable. Computed from the ledger and can be rebuilt from it.",
    "ledger": "The history, entry by entry.",
}


def table_metadata(allow: dict[str, list[str]] | None) -> dict[str, Any]:
    """Return Datasette's metadata. `allow`: the users admitted; None admits everyone."""
    databases = {
        name: {
            "description": text,
            "tables": {**{table: {"hidden": True} for table in HIDDEN[name]}, **_tables(name)},
            "queries": {query: {"hide_sql": True, **about, "sql": about["sql"].strip()} for query, about in QUERIES[name].items()},
        }
        for name, text in _DATABASES.items()
    }
    whole: dict[str, Any] = {"title": "storage-ledger", "databases": databases}
    return whole if allow is None else {**whole, "allow": allow}


def _tables(database: str) -> dict[str, dict[str, Any]]:
    found = {}
    for table, about in _TABLES[database].items():
        # Set explicitly, because Datasette would look for a rowid, which these tables do not have.
        search = {"fts_table": f"{table}_fts", "fts_pk": "first_position"} if table in KEYS else {}
        hidden = {"hidden": True} if table in HIDDEN[database] else {}
        found[table] = {**about, **search, **hidden, "columns": COLUMNS[database][table]}
    return found
