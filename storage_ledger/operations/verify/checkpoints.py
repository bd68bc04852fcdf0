"""Compare checkpoints with today's entries: those in the archive, the copy on the ledger's volume, and those that others have kept.

A checkpoint states a number of entries and the root of their tree. Whoever rewrites ledger and archive together, hashes included, cannot
make today's entries lead to a root that somebody has kept elsewhere.

Any checkpoint of this ledger counts, whatever key signed it: an attacker's key is another one. What witnesses and time stamp
authorities have signed is not checked: the ledger does not record their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import CHECKPOINTS_FOLDER, LEDGER_FOLDER
from storage_ledger.domain.payloads import KeyPayload, UnreadablePayload
from storage_ledger.domain.signed_note import MOST_BYTES, SignedNote, VerifierKey
from storage_ledger.errors import LedgerUnusable, Retryable
from storage_ledger.ledger.mirror.reader import NOT_A_FILE
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.ledger.proof.signer import has_valid_signatures
from storage_ledger.operations.verify import ledger
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.report import Agreement
from storage_ledger.operations.verify.selection import GivenNote
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader
from storage_ledger.system import files
from storage_ledger.system.files import opened

PART = "checkpoints"
FOLDER = f"{LEDGER_FOLDER}/{CHECKPOINTS_FOLDER}"
LEAVES = 4096
OURS = "signed by a key that the ledger records"
OTHER_KEY = "signed by no key that the ledger records"
NO_SIGNATURE = "without a readable signature"


@dataclass(frozen=True, slots=True)
class _Head:
    """A checkpoint. `path`: where it was found; `signed`: by whom; `is_given`: it comes from elsewhere."""

    path: str
    checkpoint: Checkpoint
    signed: str
    is_given: bool

    @property
    def size(self) -> int:
        return self.checkpoint.size


@dataclass(slots=True)
class _Group:
    """Checkpoints of the archive with the same finding: `first` is reported for all."""

    code: str
    position: int
    first: _Head
    text: str
    others: int = 0


class CheckpointsCheck:
    """Reads the leaf hashes once, up to the largest checkpoint; holds one checkpoint of each size in memory at a time.

    Of checkpoints in the archive that have the same finding, the smallest is reported, with the number of the others.
    """

    def __init__(
        self,
        reader: UntrustingReader,
        archive_root: Path,
        latest: Path,
        ledger_id: str,
        found: Findings,
        *,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._folder = CheckpointFolder(archive_root)
        self._latest = latest
        self._ledger_id = ledger_id
        self._found = found
        self._on_progress = on_progress
        self._keys: list[VerifierKey] = []
        self._knows_all_keys = True
        self._tree = Tree()
        self._is_cut = False  # an entry is damaged in the ledger and the mirror: no larger tree is known
        self._reproduced = 0
        self._groups: dict[tuple[str, int, str | None], _Group] = {}

    def run(self, given: tuple[GivenNote, ...], up_to: int) -> Agreement:
        """Check all checkpoints, with the `given` ones. `up_to`: the last position of the ledger or, if it lost its end, the mirror."""
        copies = self._read_latest()
        sizes = self._sizes()  # read after the copy, which is written last
        self._read_keys()
        last = max(up_to, self._reader.last())  # read after the checkpoints were listed: `serve` may sign more
        from_elsewhere = [head for note in given if (head := self._head(note.name, note.data, is_given=True)) is not None]
        from_elsewhere.sort(key=attrgetter("size"))
        copy = [head for data in copies if (head := self._head(self._latest.name, data, is_given=False)) is not None]
        self._require_notes_of(copy, sizes)
        heads = merge(from_elsewhere, self._in_folder(sizes or []), copy, key=attrgetter("size"))
        agreeing = 0
        for size, some in groupby(heads, key=attrgetter("size")):
            agreeing += self._judge(list(some), self._root(size) if size <= last else None, last)
        for group in self._groups.values():
            more = f"; {group.others} more in {FOLDER} have the same finding" if group.others else ""
            self._found.report(group.code, PART, position=group.position, path=group.first.path, detail=group.text + more)
        return Agreement(agreeing, self._reproduced)

    # -- what is there

    def _sizes(self) -> list[int] | None:
        """Return the sizes of the checkpoints in the archive, after reporting what else is there; None if it cannot be read."""
        try:
            for name in self._folder.unexpected():
                text = "neither a checkpoint nor part of one"
                self._found.report("untracked-file", PART, path=f"{FOLDER}/{name}", detail=text)
            for name in self._folder.without_note():
                self._found.report(
                    "checkpoint-missing", PART, path=f"{FOLDER}/{name}", detail="the checkpoint that it belongs to is missing"
                )
            return self._folder.sizes()
        except Retryable as error:
            self._found.unseen(error.code, PART, path=FOLDER, detail=error.detail)
            return None

    def _require_notes_of(self, copies: list[_Head], sizes: list[int] | None) -> None:
        for head in copies:
            if sizes is not None and head.size not in sizes:
                text = f"it is missing; {head.path} in LEDGER_PATH is its copy"
                self._found.report("checkpoint-missing", PART, path=f"{FOLDER}/{head.size}", detail=text)

    def _in_folder(self, sizes: list[int]) -> Iterator[_Head]:
        for size in sizes:
            path = f"{FOLDER}/{size}"
            try:
                data = self._folder.read(size)
                for name in self._folder.unreadable_cosignatures(size):
                    self._damaged(f"{FOLDER}/{name}", "it is not a list of signatures, so it is not shown with the checkpoint")
            except Retryable as error:
                self._found.unseen(error.code, PART, path=path, detail=error.detail)
                continue
            if data == b"":
                self._damaged(path, "it is empty, or not a regular file")
                continue
            head = None if data is None else self._head(path, data, is_given=False)
            if head is not None and head.size != size:
                self._damaged(path, f"it states {head.size} entries")
            elif head is not None:
                yield head

    def _read_latest(self) -> list[bytes]:
        try:
            with opened(self._latest.parent, files.VOLUME) as folder:
                return [files.read_file(self._latest.name, folder, MOST_BYTES + 1)]
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno in NOT_A_FILE:
                self._damaged(self._latest.name, "it is not a regular file")
            else:
                self._found.unseen("ledger-io", PART, path=self._latest.name, detail=error.strerror or "")
            return []

    def _read_keys(self) -> None:
        """Read the `key` entries, damaged ones as the mirror has them."""
        rows = self._reader.sql("SELECT position FROM entries WHERE study_id IS NULL AND kind = ?", Kind.KEY.value)
        positions = {row[0] for row in rows} | self._reader.repaired.keys()
        for position in positions:
            entry = self._reader.get(position)
            if entry is None:
                self._knows_all_keys = False
            elif entry.kind == Kind.KEY:
                try:
                    self._keys.append(VerifierKey.parse(KeyPayload.of(entry).vkey))
                except (UnreadablePayload, LedgerUnusable):
                    text = "its payload names no key that can sign checkpoints"
                    self._found.report("entry-not-understood", PART, position=position, path=ledger.FILE, detail=text)

    def _head(self, path: str, data: bytes, *, is_given: bool) -> _Head | None:
        """Return what a note states. Report it if it is unreadable, wrongly signed or another ledger's."""
        note: SignedNote | None = None
        try:
            try:
                note = SignedNote.parse(data)
                checkpoint = Checkpoint.parse(note.text)
            except ValueError:
                if not is_given:
                    raise
                checkpoint = Checkpoint.parse(_retyped(data))
        except ValueError as error:
            self._damaged(path, str(error))
            return None
        if not checkpoint.is_of(self._ledger_id):
            text = f"it is a checkpoint of {checkpoint.origin[:200]!r}; this ledger is {self._ledger_id}"
            self._found.report("checkpoint-foreign", PART, path=path, detail=text)
            return None
        if note is not None and not has_valid_signatures(note, self._keys):
            self._damaged(path, "its signature is wrong: it was changed after it was signed")
            return None
        signed = NO_SIGNATURE if note is None else OURS if self._is_by_ours(note) else OTHER_KEY
        return _Head(path, checkpoint, signed, is_given)

    def _is_by_ours(self, note: SignedNote) -> bool:
        return any(signature.is_by(key) for signature in note.signatures for key in self._keys)

    # -- what it is worth

    def _judge(self, heads: list[_Head], root: bytes | None, last: int) -> int:
        """Judge the checkpoints of one size. `root`: that of today's entries; None if there are fewer. Return how many agree."""
        position, size = self._reproduced + 1, heads[0].size
        roots: dict[bytes, _Head] = {}
        for head in heads:
            roots.setdefault(head.checkpoint.root, head)
        if len(roots) > 1:
            one, other = list(roots.values())[:2]
            text = f"it is {one.signed}; {other.path}, {other.signed}, states another root for {size} entries"
            self._found.report("checkpoint-forked", PART, position=position, path=one.path, detail=text)
        agreeing = 0
        for head in heads:
            if size > last:
                self._wrong("checkpoint-ahead", head, position, f"it covers {size} entries; there are {last}; it is {head.signed}")
            elif root is None:
                continue
            elif head.checkpoint.root != root:
                self._wrong("checkpoint-mismatch", head, position, f"the first {size} entries have another root; it is {head.signed}")
            else:
                agreeing += 1
                if head.signed is OTHER_KEY and not head.is_given and self._knows_all_keys:
                    self._damaged(head.path, f"it is {OTHER_KEY}")
        if agreeing:
            self._reproduced = size
        return agreeing

    def _wrong(self, code: str, head: _Head, position: int, text: str) -> None:
        key = (code, position, head.path if head.is_given else None)
        if key in self._groups:
            self._groups[key].others += 1
        else:
            self._groups[key] = _Group(code, position, head, text)

    def _damaged(self, path: str, text: str) -> None:
        self._found.report("checkpoint-damaged", PART, path=path, detail=text)

    def _root(self, size: int) -> bytes | None:
        """Return the root of the first entries; None, which is reported once, if one is damaged in the ledger and the mirror."""
        while self._tree.size < size and not self._is_cut:
            after = self._tree.size
            before = min(after + LEAVES, size)
            known = dict(self._reader.leaves(after, before - after))
            for position in range(after + 1, before + 1):
                leaf = self._repaired(position) if position in self._reader.repaired else known.get(position)
                if not isinstance(leaf, bytes):
                    self._is_cut = True
                    text = "the entry is damaged and not in the mirror: larger checkpoints cannot be compared"
                    self._found.unseen("ledger-damaged", PART, position=position, detail=text)
                    break
                self._tree.append(leaf)
            self._on_progress(before)
        return self._tree.root() if self._tree.size == size else None

    def _repaired(self, position: int) -> bytes | None:
        entry = self._reader.repaired[position]
        return None if entry is None else entry.leaf_hash


def _retyped(data: bytes) -> str:
    """Return the first three lines as a checkpoint's text: mail and typing change line ends, spaces, and what follows."""
    lines = [line.strip() for line in data[:MOST_BYTES].decode("utf-8", "replace").splitlines()]
    return "".join(f"{line}\n" for line in [line for line in lines if line][:3])
