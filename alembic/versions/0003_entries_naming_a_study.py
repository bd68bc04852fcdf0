"""An index to find entries without study_id whose payload names a study: rejected messages, and statuses sent for them."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        sql = "CREATE INDEX entries_naming_study ON entries USING hash (payload_text(payload, 'study_id')) WHERE study_id IS NULL"
        op.get_bind().exec_driver_sql(sql)
        return
    # json_valid: a payload that is no longer JSON (erased or damaged) is left out of the index, and can still be read and copied.
    op.get_bind().exec_driver_sql(
        "CREATE INDEX entries_naming_study ON entries (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END) "
        "WHERE study_id IS NULL AND CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
