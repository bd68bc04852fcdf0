"""Restore the ledger, entry by entry, from its mirror on the archive volume or from a backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path

from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.errors import MIRROR_DAMAGED, BackupError, LedgerUnusable, Retryable
from storage_ledger.ledger.migrate import make_again, make_folder, migrate
from storage_ledger.ledger.mirror import reader
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations import backup
from storage_ledger.operations.backup import Manifest
from storage_ledger.operations.restore_report import EntryDamaged, MirrorContinues, MirrorDamaged, NotRestored, RestoreReport
from storage_ledger.system import files
from storage_ledger.system.clock import utc_now
from storage_ledger.system.sqlite import connect, errors_mapped

BATCH = 1000
_PARTS = ("", "-wal", "-shm", "-journal")


def from_mirror(
    archive_root: Path,
    ledger_file: Path,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    force: bool = False,
    up_to_damage: bool = False,
    dry_run: bool = False,
) -> RestoreReport:
    """Restore `ledger_file` from the mirror; the caller holds `serve.lock`. A `dry_run` checks the same and changes no ledger.

    A missing or empty ledger is replaced by a complete one (the old file is set aside). A ledger that the mirror continues (an
    old copy) gets the missing entries. Any other ledger is refused and left unchanged; with `force` it is set aside, even if it
    cannot be read. A damaged mirror is refused; with `up_to_damage` the entries before the damage are restored.
    May be called again after a kill at any point. `on_progress` gets positions. Raises `LedgerUnusable`.
    """
    make_folder(ledger_file.parent)
    ledger_id = reader.ledger_id_of(archive_root)
    if force or not _holds_entries(ledger_file, dry_run=dry_run):
        new = _beside(ledger_file)
        try:
            count, mirror_damaged = _build_from_mirror(archive_root, ledger_id, new, on_progress, up_to_damage)
        except BaseException:
            _remove(new)  # this file may be what filled the volume
            raise
        set_aside = _replace_ledger(ledger_file, dry_run=dry_run)
        return RestoreReport(ledger_id, count, count, set_aside, _damage(mirror_damaged))
    ledger = SqliteLedger(ledger_file)
    try:
        if ledger.ledger_id != ledger_id:
            raise LedgerUnusable(
                "ledger-foreign",
                f"{ledger_file} is a different ledger ({ledger.ledger_id}) and has entries; the mirror belongs to {ledger_id}. "
                "With --force that ledger is set aside",
            )
        appended, mirror_damaged = _append_the_rest(archive_root, ledger, on_progress, up_to_damage=up_to_damage, dry_run=dry_run)
        last = ledger.last()
        position = last.position if last else 0
        damaged = next((entry.position for entry in ledger.scan(0, position) if faults(entry)), None)
        own = () if damaged is None else (EntryDamaged(damaged),)
        count = position + appended if dry_run else position
        return RestoreReport(ledger_id, count, appended, None, (*_damage(mirror_damaged), *own))
    finally:
        ledger.close()


def from_backup(
    place: Path,
    archive_root: Path,
    ledger_file: Path,
    *,
    force: bool,
    with_mirror: Callable[[int, int], bool],
    on_progress: backup.BackupProgress = lambda *_: None,
    up_to_damage: bool = False,
    dry_run: bool = False,
) -> RestoreReport:
    """Restore `ledger_file` from the backup at `place` (see `backup.find`); the caller holds `serve.lock`.

    The whole backup is checked before anything is changed. An existing ledger is set aside, never deleted. `force` is needed
    if that ledger cannot be read or has entries that the backup lacks, or if the archive's mirror belongs to a different
    ledger than the backup. If the mirror continues the backup, `with_mirror(backup's position, mirror's position)` decides
    whether to restore the rest from it (`up_to_damage`, `dry_run`: as for `from_mirror`). May be called again after a kill at any point.
    Raises `BackupError`, `LedgerUnusable`.
    """
    make_folder(ledger_file.parent)
    folder, manifest = backup.find(place)
    beyond = _beyond(archive_root, manifest)
    add = beyond is not None and with_mirror(manifest.position, beyond)
    tell = partial(_show_restored, on_progress, beyond)
    new = _beside(ledger_file)
    _remove(new)
    try:
        backup.take_out(folder, manifest, new, on_progress)
        if not force:
            _refuse_foreign_backup(archive_root, folder, manifest)
            position = _refuse_to_lose_entries(ledger_file, manifest, new, beyond if beyond is not None and add else 0, dry_run=dry_run)
            if position and position >= manifest.position:  # already restored by a run that was then killed, or never needed
                _remove(new)
                if add:
                    return from_mirror(archive_root, ledger_file, tell, up_to_damage=up_to_damage, dry_run=dry_run)
                return RestoreReport(manifest.ledger_id, position, 0, None, _mirror_continues(beyond))
        if (migration := migrate(new)).backup is not None:
            migration.backup.unlink()
        with closing(SqliteLedger(new, is_copy=True)) as copy, copy.write() as tx:
            tx.note_moved(None)  # what was restored is in use again, even if it was copied from PostgreSQL
        ledger = SqliteLedger(new)
        try:
            appended, mirror_damaged = 0, None
            if add:
                known = Tree().extend(entry.leaf_hash for entry in ledger.scan(0, manifest.position))  # `take_out` has just checked them
                appended, mirror_damaged = _append_the_rest(archive_root, ledger, tell, known, up_to_damage=up_to_damage)
            count = last.position if (last := ledger.last()) else 0
            ledger.note_metadata_synced(0)  # what the backup knew of the archive may no longer be true
            ledger.note_backup(LastBackup(manifest.position, manifest.created))  # the copy knows only of the one before
        finally:
            ledger.close()
        _checkpointed(new)
    except BaseException:
        _remove(new)
        raise
    set_aside = _replace_ledger(ledger_file, dry_run=dry_run)
    not_restored = _damage(mirror_damaged) if add else _mirror_continues(beyond)
    return RestoreReport(manifest.ledger_id, count, appended, set_aside, not_restored)


def _damage(mirror_damaged: str | None) -> tuple[NotRestored, ...]:
    return () if mirror_damaged is None else (MirrorDamaged(mirror_damaged),)


def _mirror_continues(beyond: int | None) -> tuple[NotRestored, ...]:
    return () if beyond is None else (MirrorContinues(beyond),)


def _show_restored(on_progress: backup.BackupProgress, beyond: int | None, position: int) -> None:
    on_progress("restored", position, beyond or position)


def _refuse_to_lose_entries(ledger_file: Path, manifest: Manifest, new: Path, up_to: int, *, dry_run: bool) -> int:
    """Raise if the ledger has entries that neither the backup nor the mirror, which adds entries `up_to` a position, would restore.

    Returns the ledger's last position, or 0.
    """
    try:
        if not _holds_entries(ledger_file, dry_run=dry_run):
            return 0
        ledger = SqliteLedger(ledger_file)
    except LedgerUnusable as error:
        text = f"{ledger_file}: {error.detail}. With --force that ledger is set aside"
        raise LedgerUnusable(error.code, text, errno=error.errno) from error
    copy = SqliteLedger(new)
    try:
        last = ledger.last()
        if last is None:
            return 0
        if ledger.ledger_id != manifest.ledger_id:
            raise LedgerUnusable(
                "ledger-foreign",
                f"{ledger_file} is a different ledger ({ledger.ledger_id}) with {last.position} entries; the backup is of "
                f"{manifest.ledger_id}. With --force that ledger is set aside",
            )
        common = min(last.position, manifest.position)
        ours, theirs = ledger.get(common), copy.get(common)
        if common and (ours is None or theirs is None or ours.leaf_hash != theirs.leaf_hash):
            raise BackupError(
                "backup-disagrees",
                f"ledger and backup diverge at position {common}: one of them was continued from an older copy. "
                "With --force the ledger is set aside",
            )
        if last.position > max(manifest.position, up_to):
            raise BackupError(
                "backup-older",
                f"{ledger_file} goes up to position {last.position}, the backup only to {manifest.position}: the ledger is newer "
                "and is kept. To restore the backup anyway, use --force: the ledger is then set aside",
            )
        return last.position
    finally:
        copy.close()
        ledger.close()


def _refuse_foreign_backup(archive_root: Path, folder: Path, manifest: Manifest) -> None:
    """Raise if the archive belongs to another ledger, since `serve` would refuse to start. Without a mirror this is unknown."""
    try:
        other = reader.ledger_id_of(archive_root)
    except (LedgerUnusable, Retryable):
        return
    if other != manifest.ledger_id:
        raise LedgerUnusable(
            "mirror-foreign",
            f"{folder} is a backup of ledger {manifest.ledger_id}; the archive's mirror belongs to ledger {other}. Use a backup of "
            f"{other}, or mount the right archive. With --force this backup is restored anyway",
        )


def _beyond(archive_root: Path, manifest: Manifest) -> int | None:
    """Return the mirror's position if it belongs to this ledger and goes beyond the backup; None otherwise or if unreadable."""
    try:
        if reader.ledger_id_of(archive_root) != manifest.ledger_id:
            return None
    except (LedgerUnusable, Retryable):
        return None
    position = reader.mirror_position(archive_root)
    return position if position is not None and position > manifest.position else None


def _holds_entries(ledger_file: Path, *, dry_run: bool) -> bool:
    """Return whether there is a ledger with entries. One of an earlier schema is migrated; in a dry run it is refused."""
    if not ledger_file.exists() or not ledger_file.stat().st_size:
        return False
    if not dry_run:
        migrate(ledger_file)
    ledger = SqliteLedger(ledger_file)
    try:
        return ledger.last() is not None
    finally:
        ledger.close()


def _build_from_mirror(
    archive_root: Path, ledger_id: str, file: Path, on_progress: Callable[[int], None], up_to_damage: bool
) -> tuple[int, str | None]:
    """Return the number of entries and the mirror's damage."""
    _remove(file)
    make_again(file, ledger_id)
    ledger = SqliteLedger(file)
    try:
        found = _append_the_rest(archive_root, ledger, on_progress, up_to_damage=up_to_damage)
    finally:
        ledger.close()
    _checkpointed(file)
    return found


def _beside(ledger_file: Path) -> Path:
    return ledger_file.with_name(f"{ledger_file.name}.restoring")


def _remove(file: Path) -> None:
    for path in (*(Path(f"{file}{part}") for part in _PARTS), *file.parent.glob(f"{file.name}.*")):
        path.unlink(missing_ok=True)


def _checkpointed(file: Path) -> None:
    """Move the WAL into the database file and fsync it: the last writable connection to close does that."""
    with errors_mapped():
        connect(file, writable=True).close()
    if Path(f"{file}-wal").exists() and Path(f"{file}-wal").stat().st_size:
        raise LedgerUnusable("ledger-io", f"{file}-wal could not be checkpointed into its database")
    files.fsync_path(file)


def _replace_ledger(ledger_file: Path, *, dry_run: bool) -> Path | None:
    """Rename the new file to the ledger's name. Existing files of that name, including a leftover WAL, are renamed first.

    A dry run removes the new file, and returns the name that an existing one would get.
    """
    stamp = utc_now().strftime("%Y%m%dT%H%M%S%fZ")
    set_aside = None
    for part in reversed(_PARTS):
        old = Path(f"{ledger_file}{part}")
        if old.exists() and not dry_run:
            old.rename(f"{ledger_file}.before-restore-{stamp}{part}")
            set_aside = Path(f"{ledger_file}.before-restore-{stamp}")
    if dry_run:
        _remove(_beside(ledger_file))
        return Path(f"{ledger_file}.before-restore-{stamp}") if ledger_file.exists() else None
    _beside(ledger_file).rename(ledger_file)
    files.fsync_path(ledger_file.parent)
    return set_aside


def _append_the_rest(
    archive_root: Path,
    ledger: SqliteLedger,
    on_progress: Callable[[int], None],
    known: Tree | None = None,
    *,
    up_to_damage: bool,
    dry_run: bool = False,
) -> tuple[int, str | None]:
    """Append the mirror's later entries, with `up_to_damage` up to the last valid root. Return their number and the damage.

    A dry run only counts them.
    """
    last = ledger.last()
    position = last.position if last else 0
    appended = 0
    proved, damage = _last_proved(archive_root, ledger.ledger_id, known) if up_to_damage else (0, None)
    stream = reader.entries(archive_root, ledger.ledger_id, known)
    if damage is not None:
        if proved <= position:
            return _nothing_to_append(position, damage)
        stream = _up_to(proved, stream)
    beyond = None
    for entry in stream:
        if entry.position > position:
            beyond = entry
            break
        if entry.position == position and last is not None and entry.leaf_hash != last.leaf_hash:
            raise LedgerUnusable(
                "mirror-disagrees",
                f"ledger and mirror diverge at position {position}: neither is a continuation of the other. "
                "With --force the ledger is set aside",
            )
    rest = stream if beyond is None else chain((beyond,), stream)
    try:
        while batch := list(islice(rest, BATCH)):
            if not dry_run:
                with ledger.write() as tx:
                    for entry in batch:
                        tx.take_over(entry)
            appended += len(batch)
            on_progress(batch[-1].position)
    except LedgerUnusable as error:
        if error.code != MIRROR_DAMAGED:
            raise
        raise LedgerUnusable(error.code, f"{error.detail}. With --up-to-damage everything before that is restored") from error
    return appended, damage.detail if damage is not None else None


def _last_proved(archive_root: Path, ledger_id: str, known: Tree | None) -> tuple[int, LedgerUnusable | None]:
    """Return the last position that a valid root of the mirror covers, and the damage after it, or None if there is none."""
    proved = 0

    def on_proved(position: int) -> None:
        nonlocal proved
        proved = position

    try:
        for _ in reader.entries(archive_root, ledger_id, known, on_proved=on_proved):
            pass
    except LedgerUnusable as error:
        if error.code != MIRROR_DAMAGED:
            raise
        return proved, error
    return proved, None


def _up_to(position: int, stream: Iterator[Entry]) -> Iterator[Entry]:
    for entry in stream:
        yield entry
        if entry.position >= position:
            return


def _nothing_to_append(position: int, damage: LedgerUnusable) -> tuple[int, str]:
    if not position:
        raise damage
    return 0, damage.detail
