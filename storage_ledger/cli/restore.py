"""`storage-ledger restore`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.restore_report import RestoreReport
    from storage_ledger.settings import Settings


def restore(
    from_mirror: Annotated[
        bool, typer.Option("--from-mirror", help="Restore from the mirror, the ledger's copy in ARCHIVE_PATH/.ledger/.")
    ] = False,
    from_backup: Annotated[
        Path | None, typer.Option("--from-backup", metavar="DEST", help="Restore from this backup, or from the newest one in this folder.")
    ] = None,
    with_mirror: Annotated[
        bool | None,
        typer.Option(
            "--with-mirror/--without-mirror",
            help="With --from-backup: whether to add the mirror's later entries. Default: ask on a terminal, otherwise no.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace the current ledger even if it is damaged, foreign or newer, or if backup and mirror are of different ledgers.",
        ),
    ] = False,
    up_to_damage: Annotated[
        bool,
        typer.Option("--up-to-damage", help="If the mirror is damaged: restore the entries before the damage, and none after it."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would be done; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Restore the ledger in LEDGER_PATH from its mirror or from a backup.

    All hashes are checked before anything is changed. A ledger without entries is replaced. An older ledger gets the
    missing entries from the mirror, or is replaced by the backup. Without --force, a ledger that cannot be read, or that has
    entries missing from the mirror or backup, is not changed.

    From a backup made with --with-key, the key that signs checkpoints is restored too, if there is none.

    A replaced ledger is kept as `ledger.db.before-restore-<time>`. Afterwards `serve` removes leftover uploads, reads back
    the statuses of the last day, and rebuilds the index.

    Stop `serve` and `browse` first. May be interrupted and run again.

    Exit code 1 if not everything was restored: the mirror has later entries (`serve` does not start until `restore
    --from-mirror` has added them) or is damaged, or the ledger that was kept has a damaged entry (--force replaces it).
    2 if it failed; the message says where the mirror or backup is damaged.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.settings import Settings
    from storage_ledger.wiring.ledgers import require_sqlite

    if from_mirror == (from_backup is not None):
        raise typer.BadParameter("use either --from-mirror or --from-backup DEST")
    if from_mirror and with_mirror is not None:
        raise typer.BadParameter("--with-mirror and --without-mirror need --from-backup")
    settings = Settings.load()
    require_sqlite(settings, "restore")
    if from_backup is None:
        done = _mirror(settings, force, up_to_damage, dry_run)
    else:
        done = _backup(settings, from_backup, with_mirror, force, up_to_damage, dry_run)
    if as_json:
        print_json({"dry_run": dry_run} | done.to_json())
    else:
        _print(done, dry_run=dry_run)
    raise typer.Exit(1 if done.not_restored else 0)


def _mirror(settings: Settings, force: bool, up_to_damage: bool, dry_run: bool) -> RestoreReport:
    from storage_ledger.cli.progress import progress
    from storage_ledger.ledger.mirror.reader import mirror_position
    from storage_ledger.operations import restore as work
    from storage_ledger.wiring.stores import repair_lock_held

    with repair_lock_held(settings, "restore"), progress("Restoring", mirror_position(settings.archive_path), "entries") as show:
        return work.from_mirror(settings.archive_path, settings.ledger_file, show, force=force, up_to_damage=up_to_damage, dry_run=dry_run)


def _backup(settings: Settings, place: Path, with_mirror: bool | None, force: bool, up_to_damage: bool, dry_run: bool) -> RestoreReport:
    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.operations import restore as work
    from storage_ledger.operations.backup import find, put_back_key
    from storage_ledger.wiring.stores import repair_lock_held

    def ask(backed_up: int, up_to: int) -> bool:
        if with_mirror is not None or not sys.stdin.isatty():
            return bool(with_mirror)
        question = f"The backup ends at position {backed_up}; the archive's mirror continues to {up_to}. Add the rest from the mirror?"
        return typer.confirm(question, default=True, err=True)

    titles = {"copied": ("Copying", "bytes"), "checked": ("Checking", "entries"), "restored": ("From the mirror", "entries")}
    with repair_lock_held(settings, "restore"), steps() as show:
        done = work.from_backup(
            place,
            settings.archive_path,
            settings.ledger_file,
            force=force,
            with_mirror=ask,
            on_progress=lambda step, done, total: show(Step(*titles[step], done, total)),
            up_to_damage=up_to_damage,
            dry_run=dry_run,
        )
        key_restored = put_back_key(find(place)[0], settings.checkpoint_key, dry_run=dry_run)
    return replace(done, key_restored=key_restored)


def _print(done: RestoreReport, *, dry_run: bool) -> None:
    from storage_ledger.operations.restore_report import EntryDamaged, MirrorContinues, MirrorDamaged

    if dry_run:
        print("Dry run: nothing was changed. Without --dry-run, this would be the result:")
    print(f"Ledger {done.ledger_id} now has {done.entries} entries; {done.appended} were added from the mirror.")
    if done.set_aside:
        print(f"The previous ledger is kept as {done.set_aside}")
    if done.key_restored:
        print("The key that signs checkpoints was put back.")
    match done.not_restored:
        case ():
            print("Start `storage-ledger serve`: it rebuilds the index and continues from here.")
        case (MirrorDamaged(detail), *_):
            print(f"The mirror is damaged: {detail}. Entries after position {done.entries} were not restored.")
            print("`storage-ledger replay --mirror` rebuilds it and keeps the damaged one in .ledger/damaged/.")
            print("Then `storage-ledger adopt` takes over the files that were archived after that position.")
        case (EntryDamaged(position), *_):
            print(f"Entry {position} of the ledger is damaged and was kept: only missing entries were added at the end.")
            print("`storage-ledger restore --from-mirror --force` restores all entries, and keeps this ledger under another name.")
        case (MirrorContinues(position), *_):
            print(f"The archive's mirror continues to position {position}: `storage-ledger restore --from-mirror` adds the rest.")
            print("`storage-ledger serve` does not start until then.")
