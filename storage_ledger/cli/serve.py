"""`storage-ledger serve`."""

from __future__ import annotations

import sys

import typer


def serve() -> None:
    """Run the service: archive what is described on Redis.

    Migrates the ledger if need be, finishes what a crash interrupted, and listens. SIGTERM or Ctrl-C finishes what was
    begun and ends with 0. Ends with 2 when it cannot go on, with 11 when another one runs on the same ledger.
    """
    _without_pictures()
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import serve

    raise typer.Exit(serve.serve(Settings.load()))


def _without_pictures() -> None:
    """pydicom loads whatever can decode pixels, a C++ library too: that is for the web page's workers, not for the archive."""
    for name in ("numpy", "PIL", "gdcm", "pylibjpeg"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # Python's way to say that it is not there
