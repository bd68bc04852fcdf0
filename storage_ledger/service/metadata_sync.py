"""metadata.json is not synced when it is written: every few seconds the whole file system is, and the ledger notes up to which entry.

After a power cut, the studies beyond that entry are compared with the ledger, and their metadata.json is written again if it differs
(docs/adr/0014).
"""

from __future__ import annotations

import threading
from contextlib import closing

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.replay.metadata import rewrite_metadata
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.unresolved_problems import Problems
from storage_ledger.system import logs

SYNC_EVERY_S = 5.0
TRIES_AT_THE_END = 2  # the first one may find the ledger busy


class MetadataSync:
    """`recovered`: set once every metadata.json follows from the ledger; until then no file may be placed."""

    def __init__(self, ledger: Ledger, archive: FilesystemArchive) -> None:
        self._ledger = ledger
        self._archive = archive
        self.recovered = threading.Event()
        self._synced = ledger.metadata_synced()
        self._lost = False

    def run(self, stop: threading.Event) -> None:
        """Recover, then sync every few seconds until `stop` is set."""
        while not self.recovered.is_set():
            if not self._recover() and stop.wait(SYNC_EVERY_S):
                return
        while not stop.wait(SYNC_EVERY_S):
            self._sync()
        for _ in range(TRIES_AT_THE_END):
            self._sync()

    def _sync(self) -> None:
        """Sync what was written since the last time. After a failure, nothing is noted any more: the next start compares the rest."""
        last = self._ledger.last()
        if last is None or last.position <= self._synced or self._lost or not self.recovered.is_set():
            return
        try:
            self._archive.sync_metadata()
            self._ledger.note_metadata_synced(last.position)
        except Retryable as error:
            self._lost = True
            logs.get().error("metadata.not-synced", code=error.code, errno=error.errno)
        except LedgerBusy as error:
            logs.get().warning("ledger.busy", thread="metadata", code=error.code)
        else:
            self._synced = last.position

    def _recover(self) -> bool:
        """Write again what differs, durably. Returns False if the archive or the ledger cannot be used now."""
        counts = ReplayCounts()
        try:
            studies = self._ledger.studies_with_unsynced_metadata()
            with closing(Problems()) as problems:
                rewrite_metadata(
                    self._ledger, self._archive, self._archive, studies, problems=problems, counts=counts, show=lambda *_: None
                )
            self._archive.sync_metadata()  # from now on the kernel reports to it
        except (Retryable, LedgerBusy) as error:
            logs.get().error("metadata.not-recovered", code=error.code, errno=error.errno)
            return False
        self._lost = bool(counts.left)
        if counts.mended or counts.left:
            logs.get().warning("metadata.recovered", files=counts.mended, pending=counts.left)
        self.recovered.set()
        return True
