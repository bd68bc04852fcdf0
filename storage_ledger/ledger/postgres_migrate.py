"""Creates the ledger's tables in a PostgreSQL database, or migrates them to the schema of this program."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.migrate import HEAD, Migration, known_revisions, require_scripts, run_scripts
from storage_ledger.system.postgres import connect, errors_mapped

_LOCK = 0x73746C67  # an advisory lock of ours: of two processes that start together, the second one finds the tables


def migrate(url: str) -> Migration:
    """Migrate the ledger in the connection's schema to `HEAD`, in one transaction. A second call changes nothing.

    Raises `LedgerUnusable` if it is newer than this program, or if the schema has other tables and no ledger. There is no copy
    beforehand: the database's own backups are for that.
    """
    from storage_ledger.system.sqlalchemy_engine import postgres_engine  # noqa: PLC0415 - a service with a current ledger does not pay for it

    with errors_mapped(), closing(connect(url)) as connection:
        before = revision_of(connection)
    if before == HEAD:
        return Migration(before, HEAD, None)
    require_scripts()
    with postgres_engine(url).connect() as bound:
        bound.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        before = revision_of(bound.connection.driver_connection)
        if before != HEAD:
            run_scripts(bound)
        bound.commit()
    return Migration(before, HEAD, None)


def take_id(url: str, ledger_id: str) -> None:
    """Give an empty ledger the id of the one that is to be copied into it. Changes nothing if it has entries."""
    with errors_mapped(), closing(connect(url)) as connection:
        sql = "UPDATE meta SET value = %s WHERE name = 'ledger_id' AND NOT EXISTS (SELECT 1 FROM entries)"
        connection.execute(sql, (ledger_id,))


def revision_of(connection: Any) -> str | None:
    """Return the ledger's schema revision; None if there is none yet. Raises `LedgerUnusable` if it is newer than this program."""
    sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    names = {row[0] for row in connection.execute(sql)}
    if not {"entries", "pending", "meta"} & names:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in names else None
    if row is None:
        text = "the database's schema has tables of these names, but no ledger: give the ledger a schema of its own"
        raise LedgerUnusable("ledger-foreign", text)
    if row[0] not in known_revisions():
        text = f"the ledger is at revision {row[0]!r}, which this program does not know; run the version that wrote it, or a newer one"
        raise LedgerUnusable("ledger-newer", text)
    return str(row[0])
