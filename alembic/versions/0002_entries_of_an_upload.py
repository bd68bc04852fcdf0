"""What was said of one upload, whichever study said it: an index, no column. The reconciler asks it for each file that it finds."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # A payload that is no JSON any more (erased, or damaged) is in no upload's list, and can still be written and read.
    op.get_bind().exec_driver_sql(
        "CREATE INDEX entries_of_upload ON entries (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END) "
        "WHERE CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger is never taken back: restore a backup instead.")
