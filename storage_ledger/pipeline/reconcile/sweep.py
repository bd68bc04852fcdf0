"""Files that lie in uploads though nobody will come for them → the ordinary way: what pub/sub lost, and what was left over.

    in uploads, written longer ago than the grace, and not growing
      ├─ waiting, failing or quarantined in the ledger         in good hands
      ├─ archived, and the same bytes                          a leftover: pending(remove) anew
      ├─ hidden by a removal that a crash cut short            its own name again: the next search sees what it is
      ├─ the Status Service says `described`, with metadata    its message was lost: `described`, source `reconcile`
      └─ anything else                                         reported, untouched

It touches no file itself, and asks for nothing that the pool do not do anyway: they look at the real bytes once more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from itertools import islice
from typing import Any, assert_never

from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, FoundUpload, Uploads, folder_of
from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Entry, Kind, faults, require_whole
from storage_ledger.domain.message import parse
from storage_ledger.domain.paths import UploadPaths, valid_study_id
from storage_ledger.domain.payloads import ArchivedPayload, DescribedPayload, FailedPayload, UnreadablePayload
from storage_ledger.domain.study import State, upload_state
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, Permanent, Rejected, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

AT_ONCE = 500
"""So many files are looked at together; then there is a rest, as long as the work was."""

BYTES_AT_ONCE = 1 << 30
"""So much is read of files that may be leftovers, before there is a rest. One larger file is read whole."""

MESSAGES_AT_ONCE = 2 << 20
"""Bytes of messages that one commit takes."""

IN_VAIN = 1000
"""So many requests that explain nothing, and the sweep goes on at the next one: uploads full of strangers must not be the Status
Service's only work."""

AWAY_AFTER = 3
"""Failures of the Status Service in a row, after which this sweep does not ask it any more."""

LISTED = 1000
REST_S = 1.0
START_S = 2.0
"""At the start a source mostly subscribes within this: one sweep does for both."""

SETTLE_S = 2.0
"""Between two looks at a file of which only its own time says that it is old: whoever writes to it shows in between."""

STATUSES = frozenset({"uploaded", "validating", "validated", "validation_failed", "processing", "described", "archived", "failed"})


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A file that stays as it is. `path`: below UPLOADS_PATH, made printable as UTF-8; `status`: what the Status Service says."""

    path: str
    bytes: int | None
    age_s: int | None
    code: str
    status: str | None = None


@dataclass(slots=True)
class Sweep:
    """What was found so far. `files`: the first `LISTED` of the `unexplained`; `trouble`: the code of what kept it from judging all.

    `young`: not older than the grace. `changing`: written to or taken away while it was looked at. `held`: the ledger knows what
    becomes of it. `unasked`: the Status Service would have had to say. `complete`: all of uploads was looked at.
    """

    looked_at: int = 0
    young: int = 0
    changing: int = 0
    held: int = 0
    described: int = 0
    leftovers: int = 0
    unasked: int = 0
    unexplained: int = 0
    files: list[Unexplained] = field(default_factory=list)
    complete: bool = False
    trouble: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Missed:
    """Its message is made up for. `last`: of the entries that name this upload; `new`: none of them is of this study."""

    path: str
    last: int
    study_id: str
    payload: DescribedPayload
    size: int
    new: bool


@dataclass(frozen=True, slots=True)
class Leftover:
    """The `archived` entry at `position` has these bytes."""

    path: str
    last: int
    position: int


class Other(Enum):
    """Nothing to do, nothing to report."""

    HELD = auto()
    CHANGING = auto()
    UNASKED = auto()


Verdict = Missed | Leftover | Unexplained | Other


@dataclass(frozen=True, slots=True)
class Told:
    """What the entries that name one upload amount to. `archived`: of each such outcome position, bytes and sha256."""

    last: int
    studies: frozenset[str]
    states: frozenset[State]
    archived: tuple[tuple[int, int, str], ...]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Told:
        """From all entries that name it, in order. Raises `Retryable` (`entry-damaged`) where one is damaged or unreadable."""
        require_whole(entries)
        states: dict[str | None, State] = {}
        archived: list[tuple[int, int, str]] = []
        for entry in entries:
            try:
                payload = payloads.of(entry)
            except UnreadablePayload as error:
                raise Retryable("entry-damaged", str(error)) from error
            state = upload_state(entry.kind, payload.step if isinstance(payload, FailedPayload) else None)
            if state is not None:
                states[entry.study_id] = state
            if isinstance(payload, ArchivedPayload):
                archived.append((entry.position, payload.file.bytes, payload.file.sha256))
        studies = frozenset(entry.study_id for entry in entries if entry.study_id is not None)
        return cls(entries[-1].position if entries else 0, studies, frozenset(states.values()), tuple(archived))

    @property
    def held(self) -> bool:
        """Somebody has to place it, or a person to decide."""
        return bool(self.states & {State.PENDING, State.FAILED, State.QUARANTINED})


class Reconciler:
    """`sweep` looks once through uploads; `run` does so again and again. Several may work on one ledger at a time.

    `bell` rings when messages may have been missed, or when it is to stop.
    """

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        client: StatusClient,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        grace_s: float,
        every_s: float = 0.0,
        settle_s: float = SETTLE_S,
        bell: threading.Event,
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._grace_s = grace_s
        self._every_s = every_s
        self._settle_s = settle_s
        self._paths = UploadPaths(str(uploads.root))
        self._bell = bell
        self._walk: Generator[FoundUpload] | None = None
        self._done = Sweep()
        self._in_vain = 0
        self._away = 0
        self._read = 0

    def run(self, stop: threading.Event) -> None:
        """Sweep at the start, each time the bell rings, and every `every_s`, until `stop` is set. With `every_s` 0 not at all.

        The start waits `START_S` at most for the first ring.
        A file whose message was missed was there before the ring, but may be younger than the grace: so there is one more
        sweep when the grace is over.
        """
        if self._every_s == 0:
            stop.wait()
            return
        self._bell.wait(START_S)
        self._bell.set()
        timed = after_grace = time.monotonic()
        while True:
            self._bell.wait(max(0.0, min(timed, after_grace) - time.monotonic()))
            if stop.is_set():
                break
            now = time.monotonic()
            if self._bell.is_set():
                self._bell.clear()
                after_grace = now + self._grace_s + SETTLE_S
            elif now >= after_grace:
                after_grace = math.inf
            timed = now + self._every_s
            self.sweep(stop)
            stop.wait(REST_S)
        self._end_walk()

    def sweep(self, stop: threading.Event, *, in_vain: float = IN_VAIN, on_progress: Callable[[Sweep], None] = lambda _: None) -> Sweep:
        """Look through uploads, or go on where the last one had enough of asking in vain (`in_vain` requests).

        What it handed over (`described`, `leftovers`) is durable on return. An absent neighbour or volume, or a ledger that
        cannot be written, is its `trouble`; raises `LedgerUnusable` only.
        """
        if self._walk is None:
            self._walk, self._done = self._uploads.walk(), Sweep()
        done = self._done
        self._in_vain = self._away = 0
        try:
            self._go_through(self._walk, done, stop, in_vain, on_progress)
        except (Retryable, LedgerBusy) as error:
            done.trouble, done.detail = error.code, error.detail
        if done.trouble is None and done.unasked:
            done.trouble, done.detail = "status-service-away", f"{done.unasked} files could not be asked about"
        if done.complete or done.trouble:
            self._end_walk()
        self._tell(done, stop)
        return done

    def _go_through(
        self, walk: Generator[FoundUpload], done: Sweep, stop: threading.Event, in_vain: float, on_progress: Callable[[Sweep], None]
    ) -> None:
        ripe: deque[FoundUpload] = deque()
        while not stop.is_set():
            began = time.monotonic()
            if not ripe:
                if self._in_vain >= in_vain:
                    return
                found = list(islice(walk, AT_ONCE))
                if not found:
                    done.complete = True
                    return
                ripe.extend(self._ripe(found, done, stop))
            self._judge_some(ripe, done, stop)
            on_progress(done)
            stop.wait(min(REST_S, time.monotonic() - began))

    def _ripe(self, found: list[FoundUpload], done: Sweep, stop: threading.Event) -> list[FoundUpload]:
        """Those that are older than the grace; each is looked at once more when it is judged.

        The kernel's own time of the last change cannot be set by anybody. Where that is old as well, nothing was written for
        so long. Where it is not (a copy that kept the original's time), only a second look tells whether somebody still writes.
        """
        now_s = self._clock().timestamp()
        ripe = [each for each in found if each.identity is None or age_s(each.identity, now_s) >= self._grace_s]
        done.looked_at += len(found)
        done.young += len(found) - len(ripe)
        quiet_s = max(self._grace_s, self._settle_s)
        if any(each.identity is not None and not quiet_s <= now_s - each.identity.changed_ns / 1e9 for each in ripe):
            stop.wait(self._settle_s)
        return ripe

    def _judge_some(self, ripe: deque[FoundUpload], done: Sweep, stop: threading.Event) -> None:
        """Judge as many as go into one commit, and commit."""
        self._read = size = 0
        handed_over: list[Missed | Leftover] = []
        while ripe and size < MESSAGES_AT_ONCE and self._read < BYTES_AT_ONCE and not stop.is_set():
            match verdict := self._judge(ripe.popleft()):
                case Missed():
                    size += verdict.size
                    handed_over.append(verdict)
                case Leftover():
                    handed_over.append(verdict)
                case Unexplained():
                    done.unexplained += 1
                    if len(done.files) < LISTED:
                        done.files.append(verdict)
                case Other.HELD:
                    done.held += 1
                case Other.CHANGING:
                    done.changing += 1
                case Other.UNASKED:
                    done.unasked += 1
                case _:
                    assert_never(verdict)
        if handed_over:
            self._hand_over(handed_over, done)

    def _judge(self, found: FoundUpload) -> Verdict:
        try:
            verdict = self._verdict(found)
            # The second look: has anybody written to it, or taken it away, since the walk came by?
            changed = found.code is None and verdict is not Other.HELD and self._uploads.look(found.path) != found.identity
        except Permanent:
            return Other.CHANGING  # no regular file any more
        except Retryable as error:
            if error.shared:
                raise
            return Other.CHANGING if error.code in {"upload-missing", "upload-changing"} else self._unexplained(found, error.code)
        return Other.CHANGING if changed else verdict

    def _verdict(self, found: FoundUpload) -> Verdict:
        try:
            found.path.encode("utf-8")
        except UnicodeEncodeError:
            return self._unexplained(found, "unsafe-path")  # no message can name it
        if (cut_short := self._cut_short(found)) is not None:
            return cut_short
        told = Told.of(self._ledger.of_upload(found.path))
        if told.held or self._has_work_item(told, found.path):
            return Other.HELD
        if found.code is not None:
            return self._unexplained(found, found.code)
        if found.identity is None:
            raise ValueError("what the walk could look at has an identity")
        position = self._same_bytes(told, found.path, found.identity)
        if position is not None:
            return Leftover(found.path, told.last, position)
        if State.DISCARDED in told.states:
            return Other.HELD  # a person's word
        verdict = self._ask(found, told)
        if isinstance(verdict, Unexplained) and Told.of(self._ledger.of_upload(found.path)).last != told.last:
            return Other.HELD  # explained meanwhile
        return verdict

    def _cut_short(self, found: FoundUpload) -> Other | None:
        """Of an upload under the hidden name of its removal. None where it is none, or its entry says another folder.

        While there is a work item to remove it, the remover sees to it. Else it gets its own name back.
        """
        position = self._uploads.hidden_position(found.path)
        entry = None if position is None else self._ledger.get(position)
        if entry is None or entry.kind != Kind.ARCHIVED or faults(entry):
            return None
        path = entry.data.get("upload_path", "")
        if folder_of(path) != folder_of(found.path):
            return None
        waits = any(
            work_item.stage is Stage.REMOVE and work_item.entry.position == position
            for work_item in self._ledger.pending_of(entry.study_id or "")
        )
        if not waits and self._uploads.recover(path, entry.position):
            logs.get().warning("reconcile.recovered", position=position)
        return Other.HELD if waits else Other.CHANGING

    def _has_work_item(self, told: Told, path: str) -> bool:
        """Archived, and to be removed; or described again meanwhile."""
        return any(
            work_item.stage in {Stage.PLACE, Stage.REMOVE} and not faults(work_item.entry) and work_item.entry.data["upload_path"] == path
            for study_id in told.studies
            for work_item in self._ledger.pending_of(study_id)
        )

    def _same_bytes(self, told: Told, path: str, identity: FileIdentity) -> int | None:
        """Position of the last `archived` of this upload that has the bytes which lie there now."""
        alike = [(position, sha256) for position, size, sha256 in told.archived if size == identity.size]
        if not alike:
            return None
        with self._uploads.open(path) as upload:
            self._read += upload.size
            sha256 = digest_of(upload.descriptor)
            upload.check_unchanged()
        return max((position for position, known in alike if known == sha256), default=None)

    def _ask(self, found: FoundUpload, told: Told) -> Verdict:
        """What the Status Service says of the study whose id is the file's name without its suffix."""
        folder, _, name = found.path.rpartition("/")
        study_id = os.path.splitext(name)[0]
        if not valid_study_id(study_id):
            return self._unexplained(found, "unsafe-study-id")
        new = study_id not in told.studies
        if new and self._is_of_another(study_id, folder, name):
            return self._unexplained(found, "study-has-another-upload")
        if self._away >= AWAY_AFTER:
            return Other.UNASKED
        try:
            status = self._client.look_up(study_id)
        except Retryable as error:
            if error.shared:
                self._away += 1
                return Other.UNASKED
            self._in_vain += 1
            return self._unexplained(found, error.code)
        self._away = 0
        verdict: Verdict
        if status is None:
            verdict = self._unexplained(found, "no-status")
        elif status.word != "described":
            verdict = self._unexplained(found, "not-described", status.word if status.word in STATUSES else "other")
        elif not status.details or not isinstance(status.details, dict):
            verdict = self._unexplained(found, "no-metadata", status.word)
        else:
            verdict = self._missed(found, told, study_id, status.details, new=new)
        if isinstance(verdict, Unexplained):
            self._in_vain += 1
        return verdict

    def _is_of_another(self, study_id: str, folder: str, name: str) -> bool:
        """Whether that study's message was about another file, or (its own not being read yet) would be: `<study_id>.dcm` beside it."""
        if self._ledger.has_kind(study_id, Kind.DESCRIBED.value):
            return True
        usual = f"{study_id}.dcm"
        return name != usual and self._uploads.look(f"{folder}/{usual}" if folder else usual) is not None

    def _missed(self, found: FoundUpload, told: Told, study_id: str, metadata: dict[str, Any], *, new: bool) -> Missed | Unexplained:
        """The message that the descriptor would have sent, as near as can be known, judged as any message is."""
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
        return Missed(found.path, told.last, study_id, payload, len(raw), new)

    def _hand_over(self, verdicts: list[Missed | Leftover], done: Sweep) -> None:
        """One commit. What somebody else has said of an upload since it was judged wins."""
        described: list[Entry] = []
        leftovers = held = 0
        with self._ledger.write() as tx:
            for verdict in verdicts:
                if not tx.is_settled(verdict.path, verdict.last):
                    held += 1
                elif isinstance(verdict, Leftover):
                    tx.add_work_item(verdict.position, Stage.REMOVE)
                    leftovers += 1
                elif verdict.new and tx.knows_study(verdict.study_id):
                    held += 1
                else:
                    described.append(tx.append(verdict.payload.entry(verdict.study_id)))
        done.described += len(described)
        done.leftovers += leftovers
        done.held += held
        self._metrics.reconciled.labels("described").inc(len(described))
        self._metrics.reconciled.labels("leftover").inc(leftovers)
        for entry in described:
            logs.get().warning("reconcile.described", study_id=entry.study_id, position=entry.position)
        if leftovers:
            logs.get().info("reconcile.leftovers", count=leftovers)

    def _unexplained(self, found: FoundUpload, code: str, status: str | None = None) -> Unexplained:
        path = os.fsencode(found.path).decode("utf-8", "backslashreplace")
        if found.identity is None:
            return Unexplained(path, None, None, code, status)
        age = age_s(found.identity, self._clock().timestamp())
        return Unexplained(path, found.identity.size, None if math.isinf(age) else round(age), code, status)

    def _tell(self, done: Sweep, stop: threading.Event) -> None:
        if done.trouble is not None:
            logs.get().warning("reconcile.stopped-short", code=done.trouble, files=done.looked_at, pending=done.unasked)
            self._metrics.sweeps.labels(done.trouble).inc()
        elif done.complete:
            if done.unexplained:
                logs.get().warning("reconcile.unexplained", count=done.unexplained, files=done.looked_at)
            self._metrics.sweeps.labels("complete").inc()
            self._metrics.unexplained.set(done.unexplained)
            self._metrics.swept.set(self._clock().timestamp())
        elif not stop.is_set():
            self._metrics.sweeps.labels("to-be-continued").inc()

    def _end_walk(self) -> None:
        if self._walk is not None:
            self._walk.close()
            self._walk = None


def age_s(identity: FileIdentity, now_s: float) -> float:
    """Seconds since it was written. A time that is still to come says nothing: then since its last change, or infinitely long."""
    for moment_ns in (identity.modified_ns, identity.changed_ns):
        if moment_ns / 1e9 <= now_s:
            return now_s - moment_ns / 1e9
    return math.inf
