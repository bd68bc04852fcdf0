"""`storage-ledger migrate`."""

from __future__ import annotations


def migrate() -> None:
    """Bring the ledger to the schema of this version; make it if there is none.

    A ledger that holds entries is copied first. `serve` does the same when it starts.
    """
    from storage_ledger.ledger.migrate import migrate as run
    from storage_ledger.settings import Settings

    settings = Settings.load()
    done = run(settings.ledger_file)
    if not done.changed:
        print(f"{settings.ledger_file} is at revision {done.after} already.")
    elif done.before is None:
        print(f"{settings.ledger_file} made, at revision {done.after}.")
    else:
        print(f"{settings.ledger_file} migrated from revision {done.before} to {done.after}. A copy of before: {done.backup}")
