"""Runs migrations on the ledger: on the connection passed by `storage-ledger migrate`, or else on that of the settings."""

from alembic import context

from storage_ledger.ledger.migrate import make_private
from storage_ledger.settings import Settings
from storage_ledger.system.sqlalchemy_engine import engine_on, postgres_engine
from storage_ledger.system.sqlite import connect


def run(connection) -> None:
    # One transaction for all revisions, so that a migration is applied completely or not at all. DDL in SQLite is transactional.
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=False, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    settings = Settings.load()
    if settings.ledger_url is not None:
        engine = postgres_engine(settings.ledger_address)
    else:
        settings.ledger_path.mkdir(mode=0o750, parents=True, exist_ok=True)
        make_private(settings.ledger_file)
        engine = engine_on(connect(settings.ledger_file, writable=True))
    with engine.connect() as own:
        run(own)
    engine.dispose()
