"""${message}"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    # Never batch_alter_table on entries: it drops triggers silently.
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    raise NotImplementedError("The ledger is never taken back: restore a backup instead.")
