"""Keeps index.db up to date with the ledger, in its own transactions, and rebuilds it if it does not match or cannot be read.

The index is disposable: neither its content nor a failure here may stop anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from storage_ledger.domain.entries import faults
from storage_ledger.errors import INDEX_UNREADABLE, LEDGER_IO, LedgerBusy, LedgerRefused, LedgerUnusable, Locked, StorageLedgerError
from storage_ledger.index.database_file import IndexFile, IndexUnreadable, IndexUnwritable, of_ledger
from storage_ledger.index.queries import is_of
from storage_ledger.index.rebuild.partitions import RebuildOptions
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.index.rebuild.rebuild import has_left_over, rebuild, remove_left_over
from storage_ledger.index.schema import progress_of, right_schema, schema, schema_version, set_progress
from storage_ledger.index.writer import KEEP_STUDIES, NOT_UNDERSTOOD, FollowingWriter
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.ledger.follower import Behind, CaughtUp, Round, RoundFailed, follow_until_stopped
from storage_ledger.system import cpu_affinity, locks, logs

BATCH = 500
GATHER_S = 0.1  # a study's entries follow each other closely: wait, to apply them in one batch
BUSY = 10
BUSY_GATHER_S = 0.5  # most of a small batch's cost is the transaction itself: while many entries arrive, make batches large
RECHECKED = 100
GIVE_UP_EACH = 3  # discard the file after this many failed writes: a new one may help
BUSY_PAUSE_S = 5.0
PAUSE_MOST_S = 60.0


class Index:
    """Writes index.db, which can be lost without harm: it is rebuilt from position 1.

    Two processes may write it: `serve`, which follows the ledger, and a command that rebuilds. So each transaction first reads the
    index's position, and a rebuild holds `index.lock`, which names its `command`. `processes` help with a rebuild; for
    `rebuild_partitions` and `rebuild_keep` see `RebuildOptions`.
    """

    def __init__(
        self,
        path: Path,
        ledger: IndexSource,
        *,
        command: str = "serve",
        processes: RebuildProcesses | None = None,
        rebuild_partitions: int = 1,
        rebuild_keep: int = KEEP_STUDIES,
    ) -> None:
        self.path = path
        self.position = 0
        self.damaged = 0
        """Number of entries left out because they are damaged; the table `damaged` lists them."""
        self.trouble: str | None = None
        """Error code of what prevents writing and rebuilding; None while the index follows."""
        self._file = IndexFile(path)
        self._ledger = ledger
        self._command = command
        self._options = RebuildOptions(processes, rebuild_partitions, rebuild_keep)
        self._failures = 0  # failed rounds in a row
        self._cure: Callable[[], object] | None = None  # to run before the next round
        self._schema_version: int | None = None  # SQLite's counter when the schema was last checked

    def run(self, stop: threading.Event, wakeup: threading.Event) -> None:
        """Follow the ledger until `stop` is set and everything is applied; `wakeup` is set when there is more. Rebuilds a broken index.

        Raises `LedgerUnusable` and nothing else: problems with the index are logged, retried with increasing delays, and reported in
        `trouble` from the second failure on.
        """
        follow_until_stopped(self._round, wakeup, stop)

    def follow(self) -> int:
        """Apply the next batch of entries in one transaction. Returns how many.

        If another process has rebuilt the index meanwhile, this continues from there; if its tables were altered, it is rebuilt.
        Raises `Locked` while another process rebuilds it, and what `IndexFile` documents.
        """
        if self._file.is_replaced():
            self._reopen()
            self.ensure()
        entries = self._ledger.read(self.position, BATCH)
        with self._file.transaction() as connection:
            progress = progress_of(connection)
            stands = progress is not None and progress[0] == self.position and schema_version(connection) == self._schema_version
            writer = FollowingWriter(connection, get=lambda position: of_ledger(partial(self._ledger.get, position)))
            if stands and entries:
                writer.apply(entries)
                set_progress(connection, entries[-1], self._ledger.ledger_id)
        if not stands:
            self.ensure()
            return self.follow()
        if not entries:
            return 0
        self.position = entries[-1].position
        self.damaged += len(writer.damaged)
        _log_damaged(writer.damaged)
        return len(entries)

    def ensure(self) -> bool:
        """Rebuild the index if it is missing, has another schema, does not match this ledger, or lacks an entry that is intact now.

        Returns whether it was rebuilt. Raises `Locked` while another process rebuilds it.
        """
        try:
            fits = self._fits()
        except IndexUnreadable:
            logs.get().warning("index.unreadable")
            fits = False
        if not fits:
            self.rebuild()
        elif has_left_over(self._file):
            with suppress(Locked, LedgerBusy), locks.held(self.path.with_suffix(".lock"), self._command):
                remove_left_over(self._file)
        return not fits

    def rebuild(
        self,
        on_progress: Callable[[int], None] = lambda _: None,
        *,
        on_indexed: Callable[[int, int], None] = lambda _, __: None,
        waits: Callable[[str], None] | None = None,
    ) -> int:
        """Rebuild the index, whatever its contents; a file that SQLite cannot read is discarded. Returns its position.

        Other processes may read and follow meanwhile. If another process is rebuilding, this waits if `waits` is given (see
        `locks.held`), otherwise it raises `Locked`. For the other arguments and errors see `rebuild.rebuild`.
        """
        with locks.held(self.path.with_suffix(".lock"), self._command, waits=waits), cpu_affinity.any_of_them():
            if self._file.is_replaced():  # by the previous holder of the lock
                self._reopen()
            try:
                return self._rebuild(on_progress, on_indexed)
            except IndexUnreadable:
                self._discard()
                return self._rebuild(on_progress, on_indexed)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _round(self) -> Round:
        try:
            if self._cure is not None:
                self._cure()
                self._cure = None
            if self.position == 0:
                self.ensure()
            applied = self.follow()
        except LedgerUnusable:
            raise
        except Locked:  # another process is rebuilding it
            logs.get().warning("index.busy", code="locked")
            self._failures += 1
            return RoundFailed(BUSY_PAUSE_S)
        except Exception as error:  # noqa: BLE001 - the index is disposable: the service continues
            self._failures += 1
            self._cure = self._recovery_for(error) or self._cure
            self._log_failure(error)
            return RoundFailed(min(PAUSE_MOST_S, 0.5 * 2.0 ** min(self._failures, 10)))
        self.trouble = None
        self._failures = 0
        if applied == 0:
            return CaughtUp(moved=False)
        return Behind(_gather_s(applied))

    def _recovery_for(self, error: Exception) -> Callable[[], object] | None:
        """Return what to do before the next attempt. A file that SQLite repeatedly cannot write is replaced with a new one."""
        if isinstance(error, IndexUnreadable):
            return self.rebuild
        if isinstance(error, IndexUnwritable) and error.code == LEDGER_IO and self._failures % GIVE_UP_EACH == 0:
            return self._discard
        return None

    def _log_failure(self, error: Exception) -> None:
        cause = error.__cause__ if isinstance(error, IndexUnreadable) and error.__cause__ else error
        cause = cause.__cause__ if isinstance(cause, LedgerRefused) and cause.__cause__ else cause  # such as a missing table
        code = cause.code if isinstance(cause, StorageLedgerError) else "index-unreadable"
        errno = getattr(cause, "errno", None)
        frames = {"frames_at": logs.where(cause)} if code == INDEX_UNREADABLE else {}
        logs.get().error("index.failed", code=code, errno=errno, attempt=self._failures, error_type=type(cause).__name__, **frames)
        if self._failures > 1:
            self.trouble = code

    def _fits(self) -> bool:
        with self._file.transaction() as connection:
            progress = progress_of(connection)
            if progress is None or schema(connection) != right_schema():
                return False
            sql = "SELECT position FROM damaged WHERE code <> ?"
            known = [row[0] for row in connection.execute(sql, (NOT_UNDERSTOOD,))]
            version = schema_version(connection)
        if not is_of(progress, self._ledger) or any(map(self._is_whole, known[:RECHECKED])):
            return False
        self.position, self.damaged, self._schema_version = progress[0], len(known), version
        return True

    def _is_whole(self, position: int) -> bool:
        """Return whether an entry that was left out could be folded now: it was repaired, or this program knows its schema."""
        entry = self._ledger.get(position)
        if entry is None or faults(entry):
            return False
        try:
            _ = entry.data
        except LedgerUnusable:
            return False
        return True

    def _rebuild(self, on_progress: Callable[[int], None], on_indexed: Callable[[int, int], None]) -> int:
        done = rebuild(self._file, self._ledger, self._options, on_progress, on_indexed)
        self.position = done.last.position if done.last else 0
        self.damaged, self._schema_version = len(done.damaged), done.schema_version
        _log_damaged(done.damaged)
        return self.position

    def _reopen(self) -> None:
        self._file.reopen()
        self.position = 0

    def _discard(self) -> None:
        self._file.discard()
        self.position = 0


def _gather_s(applied: int) -> float:
    """Return how long to wait for further entries after a batch of this many."""
    if applied == BATCH:
        return 0.0
    return BUSY_GATHER_S if applied >= BUSY else GATHER_S


def _log_damaged(damaged: Sequence[tuple[int, str]]) -> None:
    if damaged:
        logs.get().error("index.entry-damaged", position=damaged[0][0], code=damaged[0][1], count=len(damaged))
