"""Signs the ledger's tree, and refuses to sign one that does not continue the last signed one.

That refusal is what a checkpoint is worth: whoever holds an old one can prove that the ledger was rewritten, because the log never
signs both histories.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from storage_ledger.domain.checkpoint import Checkpoint, origin_of
from storage_ledger.domain.signed_note import MOST_BYTES, SignedNote, VerifierKey
from storage_ledger.errors import CHECKPOINT_FORKED, CheckpointRefused, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.keys import is_signed, recorded_verifier_keys, signing_keys
from storage_ledger.ledger.proof.tree_hashes import BlockFile, LeafHashes, TreeHashes
from storage_ledger.system import files, locks, logs
from storage_ledger.system.files import opened

FILE_MODE = 0o640
READ_BACK = 8
"""Checkpoints tried, from the largest size down, until one is readable."""


@dataclass(frozen=True, slots=True)
class ProofFiles:
    """The files of checkpoints on the ledger's volume. `origin_prefix`: CHECKPOINT_ORIGIN."""

    key: Path
    lock: Path
    latest: Path
    blocks: Path
    origin_prefix: str


class Signer:
    """Signs checkpoints of one ledger. Not thread-safe; several processes may sign, one at a time.

    The first call reads all leaf hashes, two seconds for each million entries; later ones read the new entries alone. `leaf_hashes` reads
    them, by default `Ledger.leaf_hashes`; what it raises ends the call.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: CheckpointFolder,
        paths: ProofFiles,
        *,
        clock: Callable[[], datetime],
        leaf_hashes: LeafHashes | None = None,
    ) -> None:
        self.origin = origin_of(paths.origin_prefix, ledger.ledger_id)
        self._ledger = ledger
        self._folder = folder
        self._paths = paths
        self._clock = clock
        self._leaf_hashes = leaf_hashes or ledger.leaf_hashes
        self._hashes = TreeHashes(self._leaf_hashes)
        self._block_file = BlockFile(paths.blocks, ledger.ledger_id)

    def sign(self, up_to: Callable[[], int], *, waits: bool = True) -> bytes | None:
        """Sign the tree of the entries up to a position, and return the note of that size as it is in the archive.

        `up_to` is called once the key is recorded; it returns the last mirrored position, so that what is signed can be restored. The
        note is durable on return. It is the last one if nothing was appended since; None if the ledger is empty. `waits`: while another
        process is signing; otherwise this raises `Locked`.

        Raises `CheckpointRefused`; `Retryable` if a volume fails; `LedgerError`.
        """
        with locks.held(self._paths.lock, "checkpoint", waits=(lambda _: None) if waits else None):
            last = self.last_signed()
            if self._ledger.last() is None and last is None:
                return None
            self._require_continued(last)
            keys = signing_keys(self._ledger, self._paths.key, self.origin, self._clock())
            kept = None if last is None else self._published(last)
            size = up_to()
            if last is not None and size <= last.size:
                return kept
            checkpoint = Checkpoint(self.origin, size, self._root(size))
            note = SignedNote(checkpoint.text, tuple(key.sign(checkpoint.text) for key in keys))
            data = self._folder.publish(note)
            if data != note.data:  # an intact note of this size would have been the last one
                text = f".ledger/checkpoints/{size} exists, but is not a checkpoint of this ledger"
                raise CheckpointRefused("checkpoint-name-taken", text)
            self._keep(data)
            return data

    def _published(self, last: Checkpoint) -> bytes | None:
        """Return the note of the last checkpoint. Put it back if the archive has lost it, and its copy if a killed caller left none."""
        data, latest = self._folder.read(last.size), self._read_latest()
        if data is None and latest is not None:
            data = self._folder.publish(SignedNote.parse(latest))
        if data is not None and data != latest:
            self._keep(data)
        return data

    def last_signed(self) -> Checkpoint | None:
        """Return the largest checkpoint of this ledger that is known here, by whatever key.

        The archive has them all; the ledger's volume has a copy of the last, for an archive that was restored from an older copy.
        """
        found = [each for each in (self._checkpoint(self._read_latest()), self._last_in_archive()) if each is not None]
        return max(found, key=lambda each: each.size, default=None)

    def _last_in_archive(self) -> Checkpoint | None:
        for size in self._folder.sizes()[: -READ_BACK - 1 : -1]:
            found = self._checkpoint(self._folder.read(size))
            if found is not None:
                return found
            logs.get().error("checkpoint.unreadable", entries=size)
        return None

    def _checkpoint(self, data: bytes | None) -> Checkpoint | None:
        """Return the checkpoint of a note about this ledger. One that a key of ours has signed wrongly is damaged, and counts as none."""
        if data is None:
            return None
        try:
            note = SignedNote.parse(data)
            found = Checkpoint.parse(note.text)
        except ValueError:
            return None
        if not found.is_of(self._ledger.ledger_id) or not has_valid_signatures(note, recorded_verifier_keys(self._ledger)):
            return None
        return found

    def contradicted(self) -> list[tuple[Checkpoint, bytes]]:
        """Return the notes that the ledger does not continue, largest first, down to the first one that it does continue.

        The caller holds the lock of checkpoints.
        """
        found: dict[bytes, Checkpoint] = {}
        latest = self._read_latest()
        for data in (latest, *map(self._folder.read, reversed(self._folder.sizes()))):
            checkpoint = self._checkpoint(data)
            if data is None or checkpoint is None:
                continue
            if self._contradiction(checkpoint) is not None:
                found[data] = checkpoint
            elif data is not latest:
                break
        return sorted(((checkpoint, data) for data, checkpoint in found.items()), key=lambda each: -each[0].size)

    def set_aside(self, checkpoint: Checkpoint, note: bytes) -> None:
        """Keep a note as evidence and no longer as a head, durably. May be called again. The caller holds the lock of checkpoints."""
        self._folder.set_aside(checkpoint.size, note)
        if self._read_latest() == note:
            with self._in_ledger_folder("cannot be removed") as folder:
                files.unlink_if_exists(self._paths.latest.name, folder)
                os.fsync(folder)

    def _require_continued(self, last: Checkpoint | None) -> None:
        """Raise `CheckpointRefused` if the ledger's tree does not begin with the tree of its last checkpoint."""
        if last is not None and (why := self._contradiction(last)) is not None:
            self._hashes = TreeHashes(self._leaf_hashes)  # read everything again the next time
            raise CheckpointRefused(CHECKPOINT_FORKED, why)

    def _contradiction(self, checkpoint: Checkpoint) -> str | None:
        """Return why the ledger's tree does not begin with this one; None if it does."""
        entry = self._ledger.last()
        position = entry.position if entry else 0
        if position < checkpoint.size:
            return f"the last checkpoint covers {checkpoint.size} entries, but the ledger has only {position}: it may be an old copy"
        if self._root(checkpoint.size) != checkpoint.root:
            return f"the first {checkpoint.size} entries are not those that the last checkpoint covers: some were changed"
        return None

    def _root(self, size: int) -> bytes:
        try:
            return self._hashes.root(size)
        except IndexError:
            self._hashes = TreeHashes(self._leaf_hashes)
            text = f"the ledger does not have all of its first {size} entries: `storage-ledger verify` lists what is missing"
            raise CheckpointRefused(CHECKPOINT_FORKED, text) from None

    def _read_latest(self) -> bytes | None:
        latest = self._paths.latest
        with self._in_ledger_folder("cannot be read") as folder, suppress(FileNotFoundError):
            return files.read_file(latest.name, folder, MOST_BYTES + 1)
        return None

    def _keep(self, note: bytes) -> None:
        """Copy the note to the ledger's volume, durably, and keep the tree's blocks for proofs."""
        latest = self._paths.latest
        with self._in_ledger_folder("cannot be written") as folder:
            files.replace_file(latest.name, note, folder, FILE_MODE, temporary=f".{latest.name}.tmp")
        with suppress(OSError):  # a cache
            self._block_file.write(self._hashes.blocks)

    @contextmanager
    def _in_ledger_folder(self, failed: str) -> Iterator[int]:
        latest = self._paths.latest
        try:
            with opened(latest.parent, files.VOLUME) as folder:
                yield folder
        except OSError as error:
            code = "ledger-full" if error.errno in files.NO_SPACE else "ledger-io"
            raise Retryable(code, f"{latest.name} {failed}", errno=error.errno, shared=True) from error


def has_valid_signatures(note: SignedNote, keys: list[VerifierKey]) -> bool:
    """Return whether no signature of one of these keys is wrong. Signatures of other keys are ignored."""
    return all(
        is_signed(note.text.encode(), signature.value, key)
        for signature in note.signatures
        for key in keys
        if signature.is_by(key)
    )  # fmt: skip
