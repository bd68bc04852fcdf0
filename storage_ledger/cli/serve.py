"""`storage-ledger serve`."""

from __future__ import annotations

import sys

import typer


def serve() -> None:
    """Run the service: archive the studies announced on Redis.

    Migrates the ledger if needed, finishes work left by an earlier run, and listens for messages. SIGTERM or Ctrl-C stops
    it within 25 seconds: work in progress is finished and recorded. Killing it loses nothing that was recorded.

    Exit code 2 if it cannot continue, or a thread could not finish; 11 if another `serve` is already running on this ledger.
    """
    _without_pictures()
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import serve

    raise typer.Exit(serve.serve(Settings.load()))


def _without_pictures() -> None:
    """Keep pydicom from loading pixel decoders, C++ libraries among them: only the web page's workers need these."""
    for name in ("numpy", "PIL", "gdcm", "pylibjpeg"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # None makes an import fail
