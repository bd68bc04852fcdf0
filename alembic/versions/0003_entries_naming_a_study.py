"""Entries of no study that name one all the same: a rejected message, and what was told of it. An index, no column."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # A payload that is no JSON any more (erased, or damaged) names no study, and can still be written and read.
    op.get_bind().exec_driver_sql(
        "CREATE INDEX entries_naming_study ON entries (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END) "
        "WHERE study_id IS NULL AND CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger is never taken back: restore a backup instead.")
