"""An index to find the entries that name an upload, whatever their study. The reconciler uses it for each file that it finds."""

from alembic import op

revision = "0002"
down_revision = "0001"


# The text of a member of a payload; NULL if there is none, or the payload is not JSON.
PAYLOAD_TEXT = """
    CREATE FUNCTION payload_text(payload text, name text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
    BEGIN
      RETURN payload::json ->> name;
    EXCEPTION WHEN data_exception THEN
      RETURN NULL;
    END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql(PAYLOAD_TEXT)
        # A hash index takes paths of any length.
        op.get_bind().exec_driver_sql("CREATE INDEX entries_of_upload ON entries USING hash (payload_text(payload, 'upload_path'))")
        return
    # json_valid: a payload that is no longer JSON (erased or damaged) is left out of the index, and can still be read and copied.
    op.get_bind().exec_driver_sql(
        "CREATE INDEX entries_of_upload ON entries (CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END) "
        "WHERE CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The ledger cannot be downgraded: restore a backup instead.")
