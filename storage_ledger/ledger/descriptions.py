"""What the tables, columns and triggers of ledger.db mean. scripts/reference writes docs/reference/tables.md from this and the schema."""

from __future__ import annotations

TABLES = {
    "entries": """\
One row per entry, in order.
Append-only: triggers refuse everything else.

The index `entries_of_upload` finds the entries of an upload (`upload_path` in the payload).
`entries_naming_study` finds those without study_id whose payload names one: rejected messages, and the statuses sent for them.
""",
    "pending": """\
The work queue.
A row is inserted in the commit that causes the work, and deleted only when its effect is durable.
""",
    "meta": "",
    "alembic_version": "",
}

COLUMNS = {
    "entries": {
        "position": "Sequence number: 1, 2, 3 … without gaps.",
        "entry_id": "UUID version 7.",
        "study_id": "The pipeline's study_id; NULL if the entry is about no single study.",
        "version": "Sequence number within the study: 1, 2, 3 …; NULL without study_id.",
        "kind": "See [entry kinds](entry-kinds.md).",
        "schema": "Version of the payload's format, for each kind from 1.",
        "recorded_at": "When it was appended; never before the previous entry, even if the clock was set back.",
        "cause": "Position of the entry that led to this one, or NULL.",
        "payload": "Canonical JSON.",
        "payload_sha256": "[Hash](hashes.md) of salt and payload, hex.",
        "salt": "16 random bytes.",
        "leaf_hash": "[Hash](hashes.md) of the header, 32 bytes.",
    },
    "pending": {
        "position": "Entry that causes the work.",
        "stage": "`place` (for a `described`), `remove`, `tell` (for an outcome) or `confirm` (for a `status-sent`).",
        "not_before": "Due at this time.",
        "attempts": "Failed attempts; for `confirm`, read-backs so far.",
    },
    "meta": {
        "name": "`ledger_id`, `metadata_synced` or `last_backup`.",
        "value": "A UUID, created with the ledger; the position up to which every metadata.json is durable (0: unknown); the time and "
        "last position of the last backup.",
    },
    "alembic_version": {
        "version_num": "Revision of the schema.",
    },
}

TRIGGERS = {
    "entries_insert": "a position other than the last + 1; an existing entry_id; a version other than the study's last + 1, or one without "
                      "a study; a cause that is not an earlier entry; a recorded_at before the last one; missing or wrongly typed columns. "
                      "`INSERT OR REPLACE` does not get around this.",
    "entries_update": "every UPDATE of entries.",
    "entries_delete": "every DELETE of entries.",
}  # fmt: skip
