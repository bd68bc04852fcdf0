"""The ledger again, entry for entry, from its mirror on the archive volume."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger import mirror
from storage_ledger.ledger.migrate import make_again, make_folder, migrate
from storage_ledger.ledger.sqlite import SqliteLedger, utc_now

BATCH = 1000
_PARTS = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done. `entries`: now in the ledger; `appended`: of those, taken over now; `set_aside`: where the old file went."""

    ledger_id: str
    entries: int
    appended: int
    set_aside: Path | None


def from_mirror(archive_root: Path, ledger_file: Path, on_progress: Callable[[int], None] = lambda _: None) -> Restored:
    """Make `ledger_file` what the mirror says; the caller holds `serve.lock`.

    No ledger, or one without entries: it is made beside, whole, and then takes the name; the old one is set aside. A
    ledger that the mirror goes on from (an old backup): what it lacks is appended. Anything else is refused, and nothing
    is changed. Killed at any point it may be called again. `on_progress` gets positions. Raises `LedgerUnusable`.
    """
    make_folder(ledger_file.parent)
    ledger_id = mirror.look(archive_root).ledger_id
    set_aside = None
    if not _holds_entries(ledger_file):
        _make_whole(archive_root, ledger_id, ledger_file.with_name(f"{ledger_file.name}.restoring"), on_progress)
        set_aside = _take_the_place_of(ledger_file)
        ledger = SqliteLedger(ledger_file)
        last = ledger.last()
        ledger.close()
        count = last.position if last else 0
        return Restored(ledger_id, count, count, set_aside)
    migrate(ledger_file)
    ledger = SqliteLedger(ledger_file)
    try:
        if ledger.ledger_id != ledger_id:
            raise LedgerUnusable(
                "ledger-foreign",
                f"{ledger_file} is another ledger ({ledger.ledger_id}), with entries of its own; the mirror is that of {ledger_id}. "
                "To make the mirror's ledger beside it, set LEDGER_PATH to an empty folder",
            )
        appended = _append_the_rest(archive_root, ledger, on_progress)
        last = ledger.last()
        return Restored(ledger_id, last.position if last else 0, appended, None)
    finally:
        ledger.close()


def _holds_entries(ledger_file: Path) -> bool:
    if not ledger_file.exists() or not ledger_file.stat().st_size:
        return False
    migrate(ledger_file)
    ledger = SqliteLedger(ledger_file)
    try:
        return ledger.last() is not None
    finally:
        ledger.close()


def _make_whole(archive_root: Path, ledger_id: str, file: Path, on_progress: Callable[[int], None]) -> None:
    for part in _PARTS:
        Path(f"{file}{part}").unlink(missing_ok=True)
    make_again(file, ledger_id)
    ledger = SqliteLedger(file)
    try:
        _append_the_rest(archive_root, ledger, on_progress)
    finally:
        ledger.close()  # the last one to close it brings the WAL into the file
    if Path(f"{file}-wal").exists() and Path(f"{file}-wal").stat().st_size:
        raise LedgerUnusable("ledger-io", f"{file}-wal could not be brought into its database")
    _sync(file)


def _take_the_place_of(ledger_file: Path) -> Path | None:
    """The new file gets the name. What lies there, a leftover WAL too, keeps its bytes under another one."""
    stamp = utc_now().strftime("%Y%m%dT%H%M%S%fZ")
    set_aside = None
    for part in reversed(_PARTS):
        old = Path(f"{ledger_file}{part}")
        if old.exists():
            old.rename(f"{ledger_file}.before-restore-{stamp}{part}")
            set_aside = Path(f"{ledger_file}.before-restore-{stamp}")
    ledger_file.with_name(f"{ledger_file.name}.restoring").rename(ledger_file)
    _sync(ledger_file.parent)
    return set_aside


def _append_the_rest(archive_root: Path, ledger: SqliteLedger, on_progress: Callable[[int], None]) -> int:
    last = ledger.last()
    position = last.position if last else 0
    appended = 0
    stream = mirror.entries(archive_root, ledger.ledger_id)
    for entry in islice(stream, position):
        if entry.position == position and last is not None and entry.leaf_hash != last.leaf_hash:
            raise LedgerUnusable(
                "mirror-disagrees",
                f"ledger and mirror tell different things at position {position}: neither goes on from the other. "
                "To make the mirror's ledger beside this one, set LEDGER_PATH to an empty folder",
            )
    while batch := list(islice(stream, BATCH)):
        with ledger.write() as tx:
            for entry in batch:
                tx.take_over(entry)
        appended += len(batch)
        on_progress(batch[-1].position)
    return appended


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
