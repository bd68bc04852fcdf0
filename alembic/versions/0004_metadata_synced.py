"""A row in `meta`: the position up to which every metadata.json is durable. Until now, each was before its entry."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "INSERT OR IGNORE INTO meta (name, value) SELECT 'metadata_synced', coalesce(max(position), 0) FROM entries"
        if op.get_bind().dialect.name == "sqlite"
        else "INSERT INTO meta (name, value) VALUES ('metadata_synced', '0')"  # a new ledger: on PostgreSQL there was none before
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
