"""`storage-ledger migrate`."""

from __future__ import annotations


def migrate() -> None:
    """Migrate the ledger to this version's schema, or create an empty ledger.

    `serve` does this when it starts. Before a migration the ledger is copied to `ledger.db.before-OLD-to-NEW` beside it.

    Exit code 2 if the ledger is newer than this program, is another program's database, or is on a network file system.
    """
    from storage_ledger.ledger.migrate import migrate as run
    from storage_ledger.settings import Settings

    settings = Settings.load()
    done = run(settings.ledger_file)
    if not done.changed:
        print(f"{settings.ledger_file} is already at revision {done.after}.")
    elif done.before is None:
        print(f"Created {settings.ledger_file} at revision {done.after}.")
    else:
        print(f"Migrated {settings.ledger_file} from revision {done.before} to {done.after}. Copy from before: {done.backup}")
