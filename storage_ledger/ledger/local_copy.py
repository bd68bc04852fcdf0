"""A copy of a ledger in PostgreSQL, in LEDGER_PATH/ledger.db. Pages, `verify` and `backup` read it; nobody appends to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from storage_ledger.errors import LedgerBusy, LedgerError, LedgerUnusable
from storage_ledger.ledger.copying import LedgerCopy
from storage_ledger.ledger.follower import Behind, CaughtUp, Round, RoundFailed, follow_until_stopped
from storage_ledger.ledger.migrate import make_again, migrate
from storage_ledger.ledger.sql_ledger import SqlLedger
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.ledger.transaction import MOVED_TO
from storage_ledger.system import logs

PAUSE_S = 1.0
QUEUE_EVERY_S = 1.0


def opened_copy(file: Path, ledger_id: str, address: str) -> SqliteLedger:
    """Open the local copy, made if it is missing. Raises `LedgerUnusable` if the file is a ledger of its own."""
    if not file.exists():
        make_again(file, ledger_id)
    migrate(file)
    copy = SqliteLedger(file, is_copy=True)
    with copy.write() as tx:
        moved = MOVED_TO in tx.marks
        if not moved and tx.is_empty:
            tx.note_moved(address)
            moved = True
    if copy.ledger_id == ledger_id and moved:
        return copy
    copy.close()
    text = (
        f"LEDGER_URL is set, but {file} is a ledger of its own: move it with `storage-ledger copy-ledger --to URL` "
        "(without LEDGER_URL), or use another LEDGER_PATH"
    )
    raise LedgerUnusable("ledger-foreign", text)


class LocalCopy:
    """Follows the ledger with its local copy."""

    def __init__(self, source: SqlLedger, copy: SqliteLedger, on_moved: Callable[[], None] = lambda: None) -> None:
        self.ledger = copy
        self.trouble: LedgerError | None = None
        """Why the copy is not kept up to date, until a person decides; None while it follows."""
        self._source = source
        self._copy = LedgerCopy(source, copy)
        self._on_moved = on_moved
        self._queue_at = 0.0
        self._failures = 0

    @property
    def position(self) -> int:
        """The copy's last position."""
        return self._copy.position

    def run(self, stop: threading.Event, wakeup: threading.Event) -> None:
        """Follow until `stop` is set and everything is copied. Never raises: the service does without the copy."""
        follow_until_stopped(self._round, wakeup, stop)

    def catch_up(self) -> None:
        """Copy everything that is there. Raises `LedgerBusy`, `LedgerUnusable`."""
        while self._copy.follow():
            pass
        self._copy.copy_queue()

    def close(self) -> None:
        """Close both ledgers."""
        self.ledger.close()
        self._source.close()

    def _round(self) -> Round:
        try:
            copied = self._copy.follow()
            if copied:
                self._on_moved()
            elif time.monotonic() >= self._queue_at:
                self._copy.copy_queue()
                self._queue_at = time.monotonic() + QUEUE_EVERY_S
        except LedgerError as error:
            self._failures += 1
            logs.get().warning("copy.failed", code=error.code, attempt=self._failures)
            self.trouble = None if isinstance(error, LedgerBusy) else error
            return RoundFailed(PAUSE_S * min(self._failures, 60))
        self.trouble = None
        self._failures = 0
        return Behind(0.05) if copied else CaughtUp(moved=False)
