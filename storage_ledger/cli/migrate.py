"""`storage-ledger migrate`."""

from __future__ import annotations


def migrate() -> None:
    """Migrate the ledger to this version's schema, or create an empty ledger.

    `serve` does this when it starts. Before a migration the ledger is copied to `ledger.db.before-OLD-to-NEW` beside it.

    Exit code 2 if the ledger is newer than this program, is another program's database, or is on a network file system.
    """
    from storage_ledger.settings import Settings
    from storage_ledger.wiring.ledgers import migrated

    settings = Settings.load()
    done = migrated(settings)
    name = "The ledger in PostgreSQL" if settings.ledger_url else settings.ledger_file
    if not done.changed:
        print(f"{name} is already at revision {done.after}.")
    elif done.before is None:
        print(f"Created {name} at revision {done.after}.")
    else:
        copy = f" Copy from before: {done.backup}" if done.backup else ""
        print(f"Migrated {name} from revision {done.before} to {done.after}.{copy}")
