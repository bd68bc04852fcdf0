"""Decides what the witness cosigns: the checks of c2sp.org/tlog-witness v1.0.0, "add-checkpoint", in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.merkle_tree import Tree, is_consistent
from storage_ledger.domain.signed_note import Signature, SignedNote, VerifierKey
from storage_ledger.domain.witnesses import MOST_SIZE, SIZE_TYPE, Submission
from storage_ledger.ledger.proof.cosignatures import cosign
from storage_ledger.ledger.proof.keys import SigningKey, is_signed
from storage_ledger.system import logs
from storage_ledger.witness.records import Evidence, Newest, Records, Turn

TEXT = "text/plain; charset=utf-8"
_EMPTY = Tree().root()
_OTHER_ROOT = "it has the size of the one cosigned before, but another root"


@dataclass(frozen=True, slots=True)
class CosignAnswer:
    """The HTTP answer to a request."""

    code: int
    body: str
    content_type: str = TEXT


class _Refused(Exception):
    """The answer is not 200."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.answer = CosignAnswer(code, f"{text}\n")


class Cosigner:
    """Cosigns for these logs, given by their keys; several keys of one name are one log. For any number of threads."""

    def __init__(self, key: SigningKey, keys: Sequence[VerifierKey], records: Records, clock: Callable[[], datetime]) -> None:
        self._key = key
        self._keys = keys
        self._records = records
        self._clock = clock

    def add_checkpoint(self, body: bytes) -> CosignAnswer:
        """CosignAnswer a request. The checkpoint is recorded durably before a cosignature is returned. Raises `LedgerError`."""
        try:
            asked = Submission.parse(body)
            note = SignedNote.parse(asked.note)
            checkpoint = Checkpoint.parse(note.text)
        except ValueError as error:
            return CosignAnswer(400, f"The request is not valid: {error}\n")
        try:
            signatures = self._signatures(note, checkpoint.origin)
        except _Refused as refused:
            return refused.answer
        if checkpoint.size > MOST_SIZE or asked.old > checkpoint.size:
            return CosignAnswer(400, "The old size is larger than the checkpoint's, or that is too large\n")
        with self._records.turn() as turn:
            return self._decide(turn, asked, note, checkpoint, signatures)

    def newest(self, origin_hash: str) -> bytes | None:
        """Return the newest cosigned note of the log whose origin has this SHA-256 (hex), or None."""
        for key in self._keys:
            if key.origin_hash == origin_hash and (found := self._records.newest(key.name)) is not None:
                return found.note
        return None

    def _signatures(self, note: SignedNote, origin: str) -> list[Signature]:
        """Return the signatures of the log's keys. Raises `_Refused` if there is none, or one is wrong."""
        keys = [each for each in self._keys if each.name == origin]
        if not keys:
            raise _Refused(404, "This witness does not know the origin of the checkpoint")
        found = []
        for signature in note.signatures:
            for key in keys:
                if signature.is_by(key):
                    if not is_signed(note.text.encode(), signature.value, key):
                        raise _Refused(403, "A signature of the log is wrong")
                    found.append(signature)
        if not found:
            raise _Refused(403, "No known key of the log has signed the checkpoint")
        return found

    def _decide(self, turn: Turn, asked: Submission, note: SignedNote, checkpoint: Checkpoint, signatures: list[Signature]) -> CosignAnswer:
        known = turn.newest(checkpoint.origin)
        size, root = (known.size, known.root) if known else (0, _EMPTY)
        is_other = checkpoint.size == size and checkpoint.root != root
        if asked.old != size:
            if known is not None and is_other:
                self._keep(turn, known, asked, checkpoint, _OTHER_ROOT)
            return CosignAnswer(409, f"{size}\n", SIZE_TYPE)
        if is_other:
            fault = _OTHER_ROOT
        elif not is_consistent(size, root, checkpoint.size, checkpoint.root, asked.proof):
            fault = "the proof does not show that its tree begins with the one cosigned before"
        else:
            line = cosign(self._key, note.text, int(self._clock().timestamp()))
            kept = SignedNote(note.text, (*signatures, line)).data
            turn.set_newest(checkpoint.origin, Newest(checkpoint.size, checkpoint.root, kept))
            logs.get().info("witness.cosigned", source=checkpoint.origin, entries=checkpoint.size)
            return CosignAnswer(200, line.line)
        if known is not None:
            self._keep(turn, known, asked, checkpoint, fault)
        return CosignAnswer(422, f"The checkpoint is not cosigned: {fault}\n")

    def _keep(self, turn: Turn, known: Newest, asked: Submission, checkpoint: Checkpoint, reason: str) -> None:
        now = int(self._clock().timestamp())
        turn.add_evidence(Evidence(checkpoint.origin, now, reason, known.note, asked.note))
        logs.get().error("witness.refused", source=checkpoint.origin, entries=checkpoint.size, reason=reason)
