"""`storage-ledger serve`."""

from __future__ import annotations

import typer


def serve() -> None:
    """Run the service: archive what is described on Redis.

    Migrates the ledger if need be, finishes what a crash interrupted, and listens. SIGTERM or Ctrl-C finishes what was
    begun and ends with 0. Ends with 2 when it cannot go on, with 11 when another one runs on the same ledger.
    """
    from storage_ledger import app
    from storage_ledger.settings import Settings

    raise typer.Exit(app.serve(Settings.load()))
