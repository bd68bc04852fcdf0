"""The reconciler's verdict on one file in uploads.

in uploads, written longer ago than the grace, and not growing
├─ waiting, failing or quarantined in the ledger         `HELD`: the pipeline or a person takes care of it
├─ archived, and the same bytes                          `Leftover`: to be removed
├─ hidden by a removal that a crash interrupted           `CHANGING`: it gets its name back, and the next pass judges it
├─ the Status Service says `described`, with metadata    `Missed`: its message was lost
└─ anything else                                         `Unexplained`: reported, untouched
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any

from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, FoundUpload, Uploads, folder_of
from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Entry, Kind, faults, require_whole
from storage_ledger.domain.message import parse
from storage_ledger.domain.paths import UploadPaths, valid_study_id
from storage_ledger.domain.payloads import ArchivedPayload, DescribedPayload, FailedPayload, UnreadablePayload
from storage_ledger.domain.study import OF_AN_UPLOAD, State, upload_state
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import UPLOAD_CHANGING, UPLOAD_MISSING, LedgerUnusable, Permanent, Rejected, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system import logs

AWAY_AFTER = 3
"""After this many consecutive failures of the Status Service, this pass stops asking it."""

STATUSES = frozenset({"uploaded", "validating", "validated", "validation_failed", "processing", "described", "archived", "failed"})


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A file that is left unchanged. `path`: below UPLOADS_PATH, made printable as UTF-8; `status`: from the Status Service."""

    path: str
    bytes: int | None
    age_s: int | None
    code: str
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Missed:
    """An upload whose message was lost; `payload` replaces it, and `size` is its length in bytes.

    `last`: position of the last entry that names this upload; `new`: no such entry belongs to this study.
    """

    path: str
    last: int
    study_id: str
    payload: DescribedPayload
    size: int
    new: bool


@dataclass(frozen=True, slots=True)
class Leftover:
    """An upload with the bytes that the `archived` entry at `position` recorded. `last`: as for `Missed`."""

    path: str
    last: int
    position: int


class Other(Enum):
    """Nothing to do, nothing to report.

    HELD: the ledger is handling it. CHANGING: written to or removed while it was being judged. UNASKED: only the Status Service
    could say, and it does not answer.
    """

    HELD = auto()
    CHANGING = auto()
    UNASKED = auto()


Verdict = Missed | Leftover | Unexplained | Other


@dataclass(frozen=True, slots=True)
class UploadHistory:
    """Summary of the entries that name one upload.

    `last`: position of the last one, 0 if there is none. `archived`: position of each `archived` entry, with the file's bytes and sha256.
    """

    last: int
    studies: frozenset[str]
    states: frozenset[State]
    archived: tuple[tuple[int, int, str], ...]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> UploadHistory:
        """Summarise all entries that name it, in order. Raises `Retryable` (`entry-damaged`) if one is damaged or unreadable."""
        require_whole(entries)
        states: dict[str | None, State] = {}
        archived: list[tuple[int, int, str]] = []
        for entry in entries:
            if entry.kind not in OF_AN_UPLOAD:
                continue
            try:
                payload = payloads.of(entry)
            except (UnreadablePayload, LedgerUnusable) as error:  # `ledger-newer`, caused by this entry alone
                raise Retryable("entry-damaged", str(error)) from error
            state = upload_state(entry.kind, payload.step if isinstance(payload, FailedPayload) else None)
            if state is not None:
                states[entry.study_id] = state
            if isinstance(payload, ArchivedPayload):
                archived.append((entry.position, payload.file.bytes, payload.file.sha256))
        studies = frozenset(entry.study_id for entry in entries if entry.study_id is not None)
        return cls(entries[-1].position if entries else 0, studies, frozenset(states.values()), tuple(archived))

    @property
    def is_held(self) -> bool:
        """Return whether it is waiting to be placed, or quarantined."""
        return bool(self.states & {State.PENDING, State.FAILED, State.QUARANTINED})


class Judge:
    """Judges files one by one, and counts the cost since `begin`, by which the pass sets its pace.

    `fruitless`: requests to the Status Service that explained nothing; `bytes_read`: of possible leftovers.
    """

    def __init__(self, ledger: Ledger, uploads: Uploads, client: StatusClient, clock: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._client = client
        self._clock = clock
        self._paths = UploadPaths(str(uploads.root))
        self._failures = 0
        self.fruitless = 0
        self.bytes_read = 0

    def begin(self) -> None:
        """Start a pass: the Status Service may answer again."""
        self._failures = self.fruitless = self.bytes_read = 0

    def verdict(self, found: FoundUpload) -> Verdict:
        """Judge one file, and check that it has not changed meanwhile. Raises `Retryable` only for a shared cause, and `LedgerError`."""
        try:
            verdict = self._by_ledger(found)
            # The second check: has it been written to or removed since the walk found it?
            changed = found.code is None and verdict is not Other.HELD and self._uploads.identity_of(found.path) != found.identity
        except Permanent:
            return Other.CHANGING  # no longer a regular file
        except Retryable as error:
            if error.shared:
                raise
            return Other.CHANGING if error.code in {UPLOAD_MISSING, UPLOAD_CHANGING} else self._unexplained(found, error.code)
        return Other.CHANGING if changed else verdict

    def _by_ledger(self, found: FoundUpload) -> Verdict:
        try:
            found.path.encode("utf-8")
        except UnicodeEncodeError:
            return self._unexplained(found, "unsafe-path")  # no message can name it
        if (cut_short := self._cut_short(found)) is not None:
            return cut_short
        history = UploadHistory.of(self._ledger.of_upload(found.path))
        if history.is_held or self._ledger.is_upload_waiting(found.path):
            return Other.HELD
        if found.code is not None:
            return self._unexplained(found, found.code)
        if found.identity is None:
            raise ValueError("what the walk could look at has an identity")
        position = self._same_bytes(history, found.path, found.identity)
        if position is not None:
            return Leftover(found.path, history.last, position)
        if State.DISCARDED in history.states:
            return Other.HELD  # a person's decision
        verdict = self._ask(found, history)
        if isinstance(verdict, Unexplained) and UploadHistory.of(self._ledger.of_upload(found.path)).last != history.last:
            return Other.HELD  # explained in the meantime
        return verdict

    def _cut_short(self, found: FoundUpload) -> Other | None:
        """Judge an upload that has the hidden name of its removal. None for any other file, or if its entry names another folder.

        If a work item for its removal is pending, the step remove handles it. Otherwise it gets its own name back.
        """
        position = self._uploads.hidden_position(found.path)
        entry = None if position is None else self._ledger.get(position)
        if entry is None or entry.kind != Kind.ARCHIVED or faults(entry):
            return None
        archived = payloads.readable(entry)
        if not isinstance(archived, ArchivedPayload) or folder_of(archived.upload_path) != folder_of(found.path):
            return None
        waits = self._ledger.is_pending(entry.position, Stage.REMOVE)
        if not waits and self._uploads.recover(archived.upload_path, entry.position):
            logs.get().warning("reconcile.recovered", position=position)
        return Other.HELD if waits else Other.CHANGING

    def _same_bytes(self, history: UploadHistory, path: str, identity: FileIdentity) -> int | None:
        """Return the position of the last `archived` of this upload whose bytes are those of the file now."""
        alike = [(position, sha256) for position, size, sha256 in history.archived if size == identity.size]
        if not alike:
            return None
        with self._uploads.open(path) as upload:
            self.bytes_read += upload.size
            sha256 = digest_of(upload.descriptor)
            upload.check_unchanged()
        return max((position for position, known in alike if known == sha256), default=None)

    def _ask(self, found: FoundUpload, history: UploadHistory) -> Verdict:
        """Ask the Status Service about the study whose id is the file's name without suffix."""
        folder, _, name = found.path.rpartition("/")
        study_id = os.path.splitext(name)[0]
        if not valid_study_id(study_id):
            return self._unexplained(found, "unsafe-study-id")
        new = study_id not in history.studies
        if new and self._is_of_another(study_id, folder, name):
            return self._unexplained(found, "study-has-another-upload")
        if self._failures >= AWAY_AFTER:
            return Other.UNASKED
        try:
            status = self._client.look_up(study_id)
        except Retryable as error:
            if error.shared:
                self._failures += 1
                return Other.UNASKED
            self.fruitless += 1
            return self._unexplained(found, error.code)
        self._failures = 0
        verdict: Verdict
        if status is None:
            verdict = self._unexplained(found, "no-status")
        elif status.word != "described":
            verdict = self._unexplained(found, "not-described", status.word if status.word in STATUSES else "other")
        elif not status.details or not isinstance(status.details, dict):
            verdict = self._unexplained(found, "no-metadata", status.word)
        else:
            verdict = self._missed(found, history, study_id, status.details, new=new)
        if isinstance(verdict, Unexplained):
            self.fruitless += 1
        return verdict

    def _is_of_another(self, study_id: str, folder: str, name: str) -> bool:
        """Return whether that study's message was, or (if not read yet) would be, about another file: `<study_id>.dcm` beside it."""
        if self._ledger.has_kind(study_id, Kind.DESCRIBED.value):
            return True
        usual = f"{study_id}.dcm"
        return name != usual and self._uploads.identity_of(f"{folder}/{usual}" if folder else usual) is not None

    def _missed(
        self, found: FoundUpload, history: UploadHistory, study_id: str, metadata: dict[str, Any], *, new: bool
    ) -> Missed | Unexplained:
        """Reconstruct the message that the descriptor would have sent, and validate it like any message."""
        try:
            text = json.dumps({"study_id": study_id, "file_path": found.path, "metadata": metadata}, ensure_ascii=False)
            parsed = parse(text.encode("utf-8", "backslashreplace"), self._paths)  # a lone surrogate becomes its JSON escape
        except RecursionError:
            return self._unexplained(found, "nested-too-deep", "described")
        except Rejected as error:
            return self._unexplained(found, error.code, "described")
        raw = canonical_json.dumps(parsed.message).encode("utf-8")
        payload = DescribedPayload(
            message=parsed.message,
            source="reconcile",
            raw_sha256=hashlib.sha256(raw).hexdigest(),
            upload_path=parsed.upload_path,
        )
        return Missed(found.path, history.last, study_id, payload, len(raw), new)

    def _unexplained(self, found: FoundUpload, code: str, status: str | None = None) -> Unexplained:
        path = os.fsencode(found.path).decode("utf-8", "backslashreplace")
        if found.identity is None:
            return Unexplained(path, None, None, code, status)
        age = age_s(found.identity, self._clock().timestamp())
        return Unexplained(path, found.identity.size, None if math.isinf(age) else round(age), code, status)


def age_s(identity: FileIdentity, now_s: float) -> float:
    """Return the seconds since it was written. A time in the future says nothing: then since its last change, or infinity."""
    for moment_ns in (identity.modified_ns, identity.changed_ns):
        if moment_ns / 1e9 <= now_s:
            return now_s - moment_ns / 1e9
    return math.inf
