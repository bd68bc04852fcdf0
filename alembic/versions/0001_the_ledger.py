"""The ledger: the tables entries, pending and meta, and the triggers that make entries append-only."""

import uuid

from alembic import op

revision = "0001"
down_revision = None

# Written out rather than imported: a migration must never change.
STATEMENTS = (
    """
    CREATE TABLE entries (
      position INTEGER PRIMARY KEY,
      entry_id TEXT UNIQUE,
      study_id TEXT NULL,
      version INTEGER NULL,
      kind TEXT,
      schema INTEGER,
      recorded_at TEXT,
      cause INTEGER NULL,
      payload TEXT,
      payload_sha256 TEXT,
      salt BLOB,
      leaf_hash BLOB,
      UNIQUE (study_id, version)
    )
    """,
    """
    CREATE TABLE pending (
      position INTEGER NOT NULL REFERENCES entries (position),
      stage TEXT NOT NULL CHECK (stage IN ('place', 'remove', 'tell', 'confirm')),
      not_before TEXT NOT NULL,
      attempts INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (position, stage)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX pending_due ON pending (stage, not_before, position)",
    "CREATE INDEX entries_of_no_study ON entries (kind, position) WHERE study_id IS NULL",
    # REPLACE deletes the row that the new one conflicts with, on any unique key, without firing a DELETE trigger. So each key is checked
    # here: only the next entry gets through, and it conflicts with nothing.
    """
    CREATE TRIGGER entries_insert BEFORE INSERT ON entries BEGIN
      SELECT RAISE(ABORT, 'entries: position must be the last one + 1')
        WHERE NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM entries);
      SELECT RAISE(ABORT, 'entries: this entry_id exists')
        WHERE EXISTS (SELECT 1 FROM entries WHERE entry_id = NEW.entry_id);
      SELECT RAISE(ABORT, 'entries: version must be the last one of the study + 1')
        WHERE NEW.study_id IS NOT NULL
          AND NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM entries WHERE study_id = NEW.study_id);
      SELECT RAISE(ABORT, 'entries: an entry of no study has no version')
        WHERE NEW.study_id IS NULL AND NEW.version IS NOT NULL;
      SELECT RAISE(ABORT, 'entries: cause must be an earlier entry')
        WHERE NEW.cause IS NOT NULL AND NOT EXISTS (SELECT 1 FROM entries WHERE position = NEW.cause);
      SELECT RAISE(ABORT, 'entries: recorded_at must not be earlier than that of the entry before')
        WHERE NEW.recorded_at < (SELECT recorded_at FROM entries WHERE position = NEW.position - 1);
      SELECT RAISE(ABORT, 'entries: a column is missing or of the wrong type')
        WHERE (NEW.study_id IS NOT NULL AND typeof(NEW.study_id) <> 'text')
          OR (NEW.version IS NOT NULL AND typeof(NEW.version) <> 'integer')
          OR (NEW.cause IS NOT NULL AND typeof(NEW.cause) <> 'integer')
          OR typeof(NEW.entry_id) <> 'text' OR typeof(NEW.kind) <> 'text' OR typeof(NEW.schema) <> 'integer'
          OR typeof(NEW.recorded_at) <> 'text' OR typeof(NEW.payload) <> 'text' OR typeof(NEW.payload_sha256) <> 'text'
          OR typeof(NEW.salt) <> 'blob' OR length(NEW.salt) <> 16
          OR typeof(NEW.leaf_hash) <> 'blob' OR length(NEW.leaf_hash) <> 32;
    END
    """,
    "CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END",
    "CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('ledger_id', ?)", (str(uuid.uuid4()),))


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
