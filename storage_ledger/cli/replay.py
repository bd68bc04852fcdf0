"""`storage-ledger replay`."""

from __future__ import annotations

from typing import Annotated

import typer


def replay(
    mirror: Annotated[bool, typer.Option("--mirror", help="Make the mirror on the archive volume anew; an old one is set aside.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make again from the ledger what was lost or damaged.

    --mirror is for an archive volume that is new, or whose `.ledger/` is gone or damaged. Needs `serve` stopped.
    Interrupted, it may be run again.
    """
    from storage_ledger import app
    from storage_ledger.cli.output import print_json
    from storage_ledger.cli.progress import progress
    from storage_ledger.settings import Settings

    if not mirror:
        raise typer.BadParameter("say what: --mirror")
    settings = Settings.load()
    with app.alone(settings, "replay"), app.reading(settings) as ledger:
        last = ledger.last()
        with progress("Mirroring", last.position if last else 0, "entries") as show:
            count = app.mirror_of(settings, ledger).rewrite(show)
    if as_json:
        print_json({"mirrored": count})
    else:
        print(f"The mirror is made anew: {count} entries.")
