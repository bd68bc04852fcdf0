"""`storage-ledger backup`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def backup(
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="Folder for backups, preferably on another disk; created if its parent exists.")
    ],
    with_key: Annotated[
        bool,
        typer.Option(
            "--with-key", help="Also copy the private key that signs checkpoints. Anyone who has it can sign in this ledger's name."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Back up the ledger to a new folder in DEST; `serve` may be running.

    Creates `DEST/ledger-<time in UTC>/` with a consistent copy of ledger.db, a manifest.json and the newest checkpoint, which
    `verify --checkpoint` reads. All hashes of the copy are checked before the folder gets this name. Earlier backups are
    never changed or removed, only leftovers of killed ones (`.ledger-….part`).

    Run it as the service's user. DEST may be on a network file system, but not inside UPLOADS_PATH, ARCHIVE_PATH or
    LEDGER_PATH. Backups hold patient data.

    Exit code 2 if it failed: nothing is left behind. 11 if another backup into DEST is running.
    """
    from dataclasses import asdict

    from storage_ledger.cli.output import counted, print_json, size
    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import backup

    settings = Settings.load()
    titles = {"copied": ("Copying", "pages"), "checked": ("Checking", "entries")}
    with steps() as show:
        folder, manifest, not_noted = backup.back_up(
            settings, dest, lambda step, done, total: show(Step(*titles[step], done, total)), with_key=with_key
        )
    if not_noted is not None:
        text = f"{not_noted.code}: the backup is complete, but was not noted in the ledger: `status` names the one before."
        print(text, file=sys.stderr)
    if as_json:
        print_json({"backup": str(folder)} | asdict(manifest))
    else:
        print(f"{folder}: {counted(manifest.position, 'entry', 'entries')}, {size(manifest.bytes)}; all hashes checked.")
