"""An index to find the entries that name an upload, whatever their study. The reconciler uses it for each file that it finds."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # json_valid: a payload that is no longer JSON (erased or damaged) is left out of the index, and can still be read and copied.
    op.get_bind().exec_driver_sql(
        "CREATE INDEX entries_of_upload ON entries (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END) "
        "WHERE CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
