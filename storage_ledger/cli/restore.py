"""`storage-ledger restore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.restore import RestoreReport
    from storage_ledger.settings import Settings


def restore(
    from_mirror: Annotated[
        bool, typer.Option("--from-mirror", help="From ARCHIVE_PATH/.ledger/, the ledger's copy on the archive volume.")
    ] = False,
    from_backup: Annotated[
        Path | None, typer.Option("--from-backup", metavar="DEST", help="From a backup, or the newest one in a folder of backups.")
    ] = None,
    with_mirror: Annotated[
        bool | None,
        typer.Option(
            "--with-mirror/--without-mirror",
            help="With --from-backup: whether to add what the archive's mirror has beyond it. Asked on a terminal; else not added.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Set aside a ledger that is damaged, another's, or has entries which mirror or backup lack.")
    ] = False,
    up_to_damage: Annotated[
        bool,
        typer.Option("--up-to-damage", help="Where the mirror is damaged: take all entries before that, and leave what came after."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make the ledger again, entry for entry, into LEDGER_PATH.

    For a ledger volume that was lost, or an old copy of it. Every entry is checked against its hashes, the mirror's
    against its roots, a backup's against its manifest, before anything is changed. An empty ledger is set aside and
    replaced; an older one gets the entries that it lacks; a ledger with other entries is refused and stays as it is.
    Nothing is ever deleted. Needs `serve` stopped. Interrupted, it may be run again. The index is made anew at the next
    start.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.settings import Settings

    if from_mirror == (from_backup is not None):
        raise typer.BadParameter("say from what: --from-mirror, or --from-backup DEST")
    if from_mirror and with_mirror is not None:
        raise typer.BadParameter("--with-mirror goes with --from-backup")
    settings = Settings.load()
    if from_backup is None:
        done = _mirror(settings, force, up_to_damage)
    else:
        done = _backup(settings, from_backup, with_mirror, force, up_to_damage)
    if as_json:
        print_json(done.to_json())
    else:
        _print(done)
    raise typer.Exit(1 if done.not_restored else 0)


def _mirror(settings: Settings, force: bool, up_to_damage: bool) -> RestoreReport:
    from storage_ledger.cli.progress import progress
    from storage_ledger.ledger.mirror.reader import mirror_position
    from storage_ledger.operations import restore as work
    from storage_ledger.wiring.stores import serve_lock_held

    with serve_lock_held(settings, "restore"), progress("Restoring", mirror_position(settings.archive_path), "entries") as show:
        return work.from_mirror(settings.archive_path, settings.ledger_file, show, force=force, up_to_damage=up_to_damage)


def _backup(settings: Settings, place: Path, with_mirror: bool | None, force: bool, up_to_damage: bool) -> RestoreReport:
    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.operations import restore as work
    from storage_ledger.wiring.stores import serve_lock_held

    def ask(backed_up: int, up_to: int) -> bool:
        if with_mirror is not None or not sys.stdin.isatty():
            return bool(with_mirror)
        question = f"The backup ends at position {backed_up}; the archive's mirror goes on to {up_to}. Take over the rest from there?"
        return typer.confirm(question, default=True, err=True)

    titles = {"copied": ("Copying", "bytes"), "checked": ("Checking", "entries"), "restored": ("From the mirror", "entries")}
    with serve_lock_held(settings, "restore"), steps() as show:
        return work.from_backup(
            place,
            settings.archive_path,
            settings.ledger_file,
            force=force,
            with_mirror=ask,
            on_progress=lambda step, done, total: show(Step(*titles[step], done, total)),
            up_to_damage=up_to_damage,
        )


def _print(done: RestoreReport) -> None:
    from storage_ledger.operations.restore import EntryDamaged, MirrorDamaged, MirrorGoesOn

    print(f"Ledger {done.ledger_id} now has {done.entries} entries; {done.appended} of them came from the mirror.")
    if done.set_aside:
        print(f"What lay there before is kept as {done.set_aside}")
    match done.not_restored:
        case ():
            print("Start `storage-ledger serve`: it makes the index anew, and goes on where the ledger stands.")
        case (MirrorDamaged(detail), *_):
            print(f"The mirror is damaged: {detail}. What it had after position {done.entries} is not restored.")
            print("`storage-ledger replay --mirror` makes it anew, and keeps the damaged one in .ledger/damaged/. Then see")
            print("docs/how-to/ledger-volume-lost.md for what was archived after that.")
        case (EntryDamaged(position), *_):
            print(
                f"But entry {position} is not what its hashes say, and stays so: what was there is kept, and gets what it lacks at its end."
            )
            print("`storage-ledger restore --from-mirror --force` makes all of it anew, and keeps this one beside it.")
        case (MirrorGoesOn(position), *_):
            print(f"The archive's mirror goes on to position {position}: `storage-ledger restore --from-mirror` takes over the rest.")
            print("`storage-ledger serve` does not start before.")
