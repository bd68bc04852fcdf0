"""`storage-ledger backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def backup(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A folder of backups, best on another disk; made if it is missing.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the ledger into a new folder in DEST, while `serve` goes on.

    DEST/ledger-<time in UTC>/ gets ledger.db, as it was at one moment, and manifest.json with its digests. Every entry of
    the copy is read again and checked against its hashes; then the folder gets its name. Nothing in DEST is overwritten or
    removed. It holds patients' data: files 0640, folders 0750.

    Run it as the service's user. `storage-ledger restore --from-backup DEST` takes the newest one.
    """
    from dataclasses import asdict

    from storage_ledger.cli.output import counted, print_json, size
    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import backup

    settings = Settings.load()
    titles = {"copied": ("Copying", "pages"), "checked": ("Checking", "entries")}
    with steps() as show:
        folder, manifest = backup.back_up(settings, dest, lambda step, done, total: show(Step(*titles[step], done, total)))
    if as_json:
        print_json({"backup": str(folder)} | asdict(manifest))
    else:
        print(f"{folder}: {counted(manifest.position, 'entry', 'entries')}, {size(manifest.bytes)}, every one of them checked.")
