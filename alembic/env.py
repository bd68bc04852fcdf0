"""Runs migrations on the ledger, on the connection that `storage-ledger migrate` hands over, or on LEDGER_PATH's."""

from alembic import context

from storage_ledger.ledger.migrate import make_private
from storage_ledger.settings import Settings
from storage_ledger.system.sqlalchemy_engine import engine_on
from storage_ledger.system.sqlite import connect


def run(connection) -> None:
    # One transaction for all revisions: a migration is there whole or not at all. SQLite's DDL is transactional.
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=False, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    settings = Settings.load()
    settings.ledger_path.mkdir(mode=0o750, parents=True, exist_ok=True)
    make_private(settings.ledger_file)
    engine = engine_on(connect(settings.ledger_file, writable=True))
    with engine.connect() as own:
        run(own)
    engine.dispose()
