"""Copies a ledger into another engine, entry by entry: for a move, and for the local copy of a ledger in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

from storage_ledger.domain.entries import faults
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.errors import LedgerBusy, LedgerRefused, LedgerUnusable
from storage_ledger.ledger.sql_ledger import SqlLedger

BATCH = 5000


class LedgerCopy:
    """Brings `target` up to date with `source`, whose ledger_id it has. Several processes may do so at once."""

    def __init__(self, source: SqlLedger, target: SqlLedger) -> None:
        if source.ledger_id != target.ledger_id:
            text = f"the copy is of another ledger ({target.ledger_id}, not {source.ledger_id})"
            raise LedgerUnusable("ledger-foreign", text)
        self._source = source
        self._target = target
        self._copied_queue: list[tuple[int, str, str, int]] | None = None
        self.position = 0
        """The copy's last position, from the first `follow` on."""

    def follow(self, limit: int = BATCH) -> int:
        """Copy the next entries in one transaction; return how many. They are durable on return.

        Raises `LedgerBusy`, and `LedgerUnusable`: `copy-disagrees` if the copy is not the beginning of the source, `ledger-damaged` if an
        entry of the source does not match its hashes. Nothing is copied then.
        """
        last = self._target.last()
        self.position = 0 if last is None else last.position
        known = None if last is None else self._source.get(last.position)
        if last is not None and (known is None or known.leaf_hash != last.leaf_hash):
            raise LedgerUnusable(
                "copy-disagrees",
                f"the copy's entry at position {last.position} is not the ledger's: one of them was continued from an older copy",
            )
        entries = self._source.read(self.position, limit)
        damaged = next((entry for entry in entries if faults(entry)), None)
        if damaged is not None:
            raise LedgerUnusable("ledger-damaged", f"the entry at position {damaged.position} does not match its hashes")
        if entries:
            try:
                with self._target.write() as tx:
                    tx.copy(entries)
            except LedgerRefused as error:
                if (now := self._target.last()) is None or now.position == self.position:
                    raise
                raise LedgerBusy("ledger-busy", "another process copies the ledger, too") from error
            self.position = entries[-1].position
        return len(entries)

    def copy_queue(self) -> bool:
        """Make the copy's work queue that of the source, without work for entries that are not copied yet. Return whether it changed."""
        queue = self._source.work_queue(self.position)
        if queue == self._copied_queue:
            return False
        with self._target.write() as tx:
            tx.set_work_queue(queue)
        self._copied_queue = queue
        return True

    def finish(self, address: str) -> None:
        """Let the target take the source's place: copy the last entries, the work queue and the notes; mark the source as moved.

        `address`: how people call the target. Nobody may append to the source meanwhile; afterwards it refuses. Raises as `follow`.
        """
        self._target.set_notes(self._source.notes())
        with self._source.write() as tx:  # whoever still appends waits
            while self.follow():
                pass
            self._copied_queue = None
            self.copy_queue()
            tx.note_moved(address)

    def roots(self, on_progress: Callable[[int], None] = lambda _: None) -> tuple[bytes, bytes]:
        """Return the Merkle roots of source and copy up to the copy's last position, from all their leaf hashes."""
        return self._root(self._source, lambda _: None), self._root(self._target, on_progress)

    def _root(self, ledger: SqlLedger, on_progress: Callable[[int], None]) -> bytes:
        tree = Tree()
        for position, leaf_hash in enumerate(ledger.leaf_hashes(0, self.position), 1):
            tree.append(leaf_hash)
            if position % 10_000 == 0:
                on_progress(position)
        return tree.root()
