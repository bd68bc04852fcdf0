"""A ledger of any size with mirror, index and checkpoints, for whoever checks the log from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.signer import ProofFiles, Signer
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.clock import utc_now
from tests.support.making import described


class SignedLedger:
    """`folder/ledger` and `folder/archive`. Make `ledger.db` first, for instance with `migrate`; `close` it in the end."""

    def __init__(self, folder: Path, origin: str = "hospital.example") -> None:
        self.archive, self.folder = folder / "archive", folder / "ledger"
        self.archive.mkdir(exist_ok=True)
        self.ledger = SqliteLedger(self.folder / "ledger.db")
        self.mirror = Mirror(self.archive, self.folder / "mirror.lock", self.ledger)
        self.mirror.begin()
        root = self.folder
        paths = ProofFiles(root / "checkpoint.key", root / "checkpoint.lock", root / "checkpoint.latest", root / "tree.cache", origin)
        self.signer = Signer(self.ledger, CheckpointFolder(self.archive), paths, clock=utc_now)

    def append(self, count: int) -> None:
        """Append this many entries."""
        with self.ledger.write() as tx:
            for number in range(count):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{number}.dcm"), f"s{number}"), work_item=False)

    def sign(self) -> str:
        """Mirror and sign everything, and return the note."""
        note = self.signer.sign(self._mirrored)
        assert note is not None
        return note.decode()

    def index(self) -> None:
        """Make the index."""
        index = Index(self.folder / "index.db", self.ledger)
        index.ensure()
        index.close()

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def _mirrored(self) -> int:
        self.mirror.catch_up()
        return self.mirror.position


@contextmanager
def opened(folder: Path) -> Iterator[SignedLedger]:
    """Open and close it."""
    made = SignedLedger(folder)
    try:
        yield made
    finally:
        made.close()
