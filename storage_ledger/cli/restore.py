"""`storage-ledger restore`."""

from __future__ import annotations

from typing import Annotated

import typer


def restore(
    from_mirror: Annotated[
        bool, typer.Option("--from-mirror", help="From ARCHIVE_PATH/.ledger/, the ledger's copy on the archive volume.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make the ledger again, entry for entry, into LEDGER_PATH.

    For a ledger volume that was lost, or an old copy of it. Every entry is checked against its hashes and the mirror's
    roots. An empty ledger is set aside and replaced; an older one gets the entries that it lacks; a ledger with other
    entries is refused and stays as it is (to make the mirror's one beside it, set LEDGER_PATH to an empty folder).
    Needs `serve` stopped. Interrupted, it may be run again. The index is made anew at the next start.
    """
    from storage_ledger import app
    from storage_ledger import restore as work
    from storage_ledger.cli.output import print_json
    from storage_ledger.cli.progress import progress
    from storage_ledger.ledger.mirror import mirrored_position
    from storage_ledger.settings import Settings

    if not from_mirror:
        raise typer.BadParameter("say from what: --from-mirror")
    settings = Settings.load()
    with app.alone(settings, "restore"), progress("Restoring", mirrored_position(settings.archive_path), "entries") as show:
        done = work.from_mirror(settings.archive_path, settings.ledger_file, show)
    if as_json:
        set_aside = str(done.set_aside) if done.set_aside else None
        print_json({"ledger_id": done.ledger_id, "entries": done.entries, "appended": done.appended, "set_aside": set_aside})
        return
    print(f"Ledger {done.ledger_id} now has {done.entries} entries; {done.appended} of them came from the mirror.")
    if done.set_aside:
        print(f"What lay there before is kept as {done.set_aside}")
    print("Start `storage-ledger serve`: it makes the index anew, and goes on where the ledger stands.")
