"""Which revision of the ledger's schema this program is made for; the schema itself stands in alembic/versions/."""

HEAD = "0003"
