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

# The same in PostgreSQL. Texts compare as bytes do (COLLATE "C"), as in SQLite.
POSTGRES = (
    """
    CREATE TABLE entries (
      position bigint PRIMARY KEY,
      entry_id text COLLATE "C" NOT NULL UNIQUE,
      study_id text COLLATE "C" NULL,
      version bigint NULL,
      kind text COLLATE "C" NOT NULL,
      schema bigint NOT NULL,
      recorded_at text COLLATE "C" NOT NULL,
      cause bigint NULL,
      payload text COLLATE "C" NOT NULL,
      payload_sha256 text COLLATE "C" NOT NULL,
      salt bytea NOT NULL CHECK (length(salt) = 16),
      leaf_hash bytea NOT NULL CHECK (length(leaf_hash) = 32),
      UNIQUE (study_id, version),
      CHECK ((study_id IS NULL) = (version IS NULL))
    )
    """,
    # No reference to entries: each check of one would write to a row of that table. Its rows are made in the transaction of their entry.
    """
    CREATE TABLE pending (
      position bigint NOT NULL,
      stage text COLLATE "C" NOT NULL CHECK (stage IN ('place', 'remove', 'tell', 'confirm')),
      not_before text COLLATE "C" NOT NULL,
      attempts bigint NOT NULL DEFAULT 0,
      PRIMARY KEY (position, stage)
    ) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)
    """,
    'CREATE TABLE meta (name text COLLATE "C" PRIMARY KEY, value text COLLATE "C" NOT NULL)',
    "CREATE INDEX pending_due ON pending (stage, not_before, position)",
    "CREATE INDEX entries_of_no_study ON entries (kind, position) WHERE study_id IS NULL",
    """
    CREATE FUNCTION entries_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
      last record;
    BEGIN
      SELECT position, recorded_at INTO last FROM entries ORDER BY position DESC LIMIT 1;
      IF NEW.position <> coalesce(last.position, 0) + 1 THEN
        RAISE EXCEPTION 'entries: position must be the last one + 1';
      END IF;
      IF NEW.recorded_at < last.recorded_at THEN
        RAISE EXCEPTION 'entries: recorded_at must not be earlier than that of the entry before';
      END IF;
      IF NEW.cause NOT BETWEEN 1 AND coalesce(last.position, 0) THEN
        RAISE EXCEPTION 'entries: cause must be an earlier entry';
      END IF;
      IF NEW.version <> (SELECT coalesce(max(version), 0) + 1 FROM entries WHERE study_id = NEW.study_id) THEN
        RAISE EXCEPTION 'entries: version must be the last one of the study + 1';
      END IF;
      RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER entries_insert BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION entries_insert()",
    """
    CREATE FUNCTION entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      RAISE EXCEPTION 'entries are never changed or deleted';
    END $$
    """,
    "CREATE TRIGGER entries_update BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION entries_stay()",
    "CREATE TRIGGER entries_truncate BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION entries_stay()",
)


def upgrade() -> None:
    connection = op.get_bind()
    ledger_id = str(uuid.uuid4())
    if connection.dialect.name == "postgresql":
        for statement in POSTGRES:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('ledger_id', %s)", (ledger_id,))
        return
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('ledger_id', ?)", (ledger_id,))


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
