"""Signs checkpoints while the service runs: at most one per CHECKPOINT_SECONDS, and only if entries were appended since the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from storage_ledger.domain.backoff import Backoff
from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.reason import Reason
from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.errors import CheckpointRefused, LedgerError, Locked, Retryable
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

if TYPE_CHECKING:
    from storage_ledger.ledger.mirror.writer import Mirror
    from storage_ledger.ledger.proof.signer import Signer
    from storage_ledger.ledger.proof.tree_hashes import LeafHashes

LOOK_EVERY_S = 1.0
LEAVES = 4096
AGAIN = Backoff(2, 300)
"""A ledger that does not continue its last checkpoint is read from its beginning at each attempt."""


class _Stopped(Exception):
    """The service stops while the ledger is read."""


class CheckpointSigning:
    """The thread that signs. No failure stops anything else.

    `make_signer` is called before the first signature; until then, no cryptography is loaded. It gets what reads the ledger's leaf hashes
    (`leaf_hashes`) until the service stops: a large ledger takes longer than a stop may.
    """

    def __init__(
        self,
        make_signer: Callable[[LeafHashes], Signer],
        leaf_hashes: LeafHashes,
        folder: CheckpointFolder,
        mirror: Mirror,
        *,
        every_s: float,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self.trouble: Reason | None = None
        """Why nothing is signed: a refusal, or what has failed more than once."""
        self._make_signer = make_signer
        self._read = leaf_hashes
        self._stop = threading.Event()
        self._signer: Signer | None = None
        self._folder = folder
        self._mirror = mirror
        self._every_s = every_s
        self._metrics = metrics
        self._clock = clock
        self._size: int | None = None  # of the last checkpoint; None: this process has not looked yet
        self._shown = 0
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Sign until `stop` is set."""
        if self._every_s <= 0:
            stop.wait()
            return
        self._stop = stop
        while not stop.is_set():
            stop.wait(self.step())

    def step(self) -> float:
        """Sign if it is time, and return the seconds until the next step. While nothing was appended, it compares two numbers."""
        if not self._failures and self._mirror.position <= (self._size or 0):
            return LOOK_EVERY_S
        try:
            if self._size is None and (wait_s := self._look()) > 0:
                return wait_s
            return self._sign()
        except Locked:  # another process is signing
            return LOOK_EVERY_S
        except _Stopped:
            return 0.0
        except (CheckpointRefused, Retryable, LedgerError) as error:
            return self._failed(error)

    def _look(self) -> float:
        """Find the last checkpoint of an earlier process, and return the seconds until the next one is due.

        Anyone who can write the archive sets the file's name and time. They only decide when this process signs first: at most
        CHECKPOINT_SECONDS from now. A ledger that is shorter than its last checkpoint is found at once.
        """
        last = self._folder.newest()
        self._size = 0
        if last is None:
            return 0.0
        self._show(last.size, last.written_at)
        age_s = self._clock().timestamp() - last.written_at
        return 0.0 if last.size > self._mirror.position else min(self._every_s, self._every_s - age_s)

    def _sign(self) -> float:
        self._signer = self._signer or self._make_signer(self._until_stopped)
        note = self._signer.sign(self._mirrored, waits=False)
        self._failures, self.trouble = 0, None
        self._metrics.checkpoint_failing.set(0)
        size = 0 if note is None else Checkpoint.parse(SignedNote.parse(note).text).size
        if size > self._shown:
            self._show(size, self._clock().timestamp())
            logs.get().info("checkpoint.signed", entries=size)
        self._size = size
        return self._every_s

    def _until_stopped(self, after: int, up_to: int) -> Iterator[bytes]:
        for number, leaf_hash in enumerate(self._read(after, up_to)):
            if number % LEAVES == 0 and self._stop.is_set():
                raise _Stopped
            yield leaf_hash

    def _mirrored(self) -> int:
        self._mirror.catch_up()
        return self._mirror.position

    def _failed(self, error: CheckpointRefused | Retryable | LedgerError) -> float:
        self._failures += 1
        wait_s = AGAIN.wait_s(self._failures, chance=0.5)
        logs.get().error("checkpoint.failed", code=error.code, errno=error.errno, attempt=self._failures, due_in_s=round(wait_s, 1))
        if isinstance(error, CheckpointRefused) or self._failures > 1:
            self.trouble = Reason(error.code, f"no checkpoint is signed: {error.detail}; archiving continues")
            self._metrics.checkpoint_failing.set(1)
        return wait_s

    def _show(self, size: int, signed_at: float) -> None:
        self._shown = size
        self._metrics.checkpoint_size.set(size)
        self._metrics.checkpoint_signed.set(signed_at)
