"""Outcomes → the Status Service: sent at least once, read back, and re-sent if overwritten.

The descriptor publishes its message before it posts its own `described`, which may overwrite our `archived`. So each status
is read back after 1, 6 and 60 times STATUS_CONFIRM_SECONDS, and re-sent if it was overwritten or lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from storage_ledger.domain.backoff import TELL_AGAIN_AWAY, TELL_AGAIN_REFUSED, TELL_PAUSES, worth_an_entry
from storage_ledger.domain.entries import Entry, Kind, require_whole
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.paths import METADATA, archive_path, study_folder
from storage_ledger.domain.payloads import RejectedPayload, StatusSentPayload, UnreadablePayload
from storage_ledger.domain.study import Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.pipeline.failures import append_failed
from storage_ledger.pipeline.status_client import Statuses
from storage_ledger.pipeline.worker_pool import Policy, Report
from storage_ledger.system.metrics import Metrics

CONFIRM_AFTER = (1, 6, 60)  # times STATUS_CONFIRM_SECONDS, after the status was sent
LOST_WORDS = frozenset({None, "described"})
POLICY = Policy(
    "tell",
    "notify",
    (Stage.TELL, Stage.CONFIRM),
    workers=4,
    pauses=TELL_PAUSES,
    pause_after=3,  # until then each is retried on its own
    outage_after=5,
    into_volumes=False,
    resumes_unless_met=False,  # work that needs no answer from the Status Service does not prove that it is back
)
"""Statuses of one study are sent in order, studies in parallel; one call serves several work items of a study."""


@dataclass(frozen=True, slots=True)
class Told:
    """The Status Service accepted a status. `tells`: the work items that this completes; `overwritten`: the read-back that caused it.

    `rejected`: why a message was rejected, if it is about one.
    """

    study_id: str
    tells: list[WorkItem]
    status: str
    http_status: int
    rejected: str | None
    overwritten: WorkItem | None = None


@dataclass(frozen=True, slots=True)
class Stays:
    """A read-back that found nothing to re-send. `error`: the answer was unusable, so the result is unknown."""

    work_item: WorkItem
    error: Retryable | None = None


@dataclass(frozen=True, slots=True)
class Moot:
    """`failed` for a rejected message need not be sent: the ledger has a valid message for its study."""

    tells: list[WorkItem]


@dataclass(frozen=True, slots=True)
class NotTold:
    """To be tried again later."""

    work_items: list[WorkItem]
    error: Retryable


TellOutcome = Told | Stays | Moot | NotTold


class Notifier:
    """Sends statuses, reads them back and records the outcomes: the work of a `WorkerPool`."""

    def __init__(
        self,
        ledger: Ledger,
        client: Statuses,
        *,
        archive_root: str,
        metrics: Metrics,
        clock: Callable[[], datetime],
        confirm_s: float,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._archive_root = archive_root
        self._metrics = metrics
        self._clock = clock
        self._confirm_s = confirm_s
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def tell(self, work_items: list[WorkItem]) -> TellOutcome:
        """Send or read back what is due for one study. Raises `LedgerError`."""
        try:
            require_whole(work_item.entry for work_item in work_items)
            tells = [work_item for work_item in work_items if work_item.stage is Stage.TELL]
            return self._tell(tells) if tells else self._read_back(work_items[-1])
        except Retryable as error:
            return NotTold(work_items, error)

    def _tell(self, tells: list[WorkItem]) -> TellOutcome:
        study_id, rejected = _about(tells[-1].entry)
        if rejected is not None and self._ledger.has_kind(study_id, Kind.DESCRIBED.value):
            return Moot(tells)
        status, details = self._status(study_id, rejected)
        return Told(study_id, tells, status, self._client.tell(study_id, status, details), rejected)

    def _read_back(self, work_item: WorkItem) -> TellOutcome:
        study_id, rejected = _about(work_item.entry)
        try:
            word = self._client.read(study_id)
        except Retryable as error:
            if error.shared:
                raise
            return Stays(work_item, error)  # it answers, but not this request: nothing can be learnt
        if word not in LOST_WORDS or any(d.stage in {Stage.PLACE, Stage.TELL} for d in self._ledger.pending_of(study_id)):
            return Stays(work_item)
        if rejected is not None and self._ledger.has_kind(study_id, Kind.DESCRIBED.value):
            return Stays(work_item)
        status, details = self._status(study_id, rejected)
        return Told(study_id, [], status, self._client.tell(study_id, status, details), rejected, overwritten=work_item)

    def _status(self, study_id: str, rejected: str | None) -> tuple[str, dict[str, Any]]:
        """Return the status and details to send for a study now: see `Study.failure`."""
        if rejected is not None:
            return "failed", {"error": rejected}
        if self._ledger.has_kind(study_id, Kind.QUARANTINED.value):
            code = Study.of(study_id, self._ledger.study(study_id)).failure
            if code is not None:
                return "failed", {"error": code}
        folder = study_folder(self._archive_root, study_id)
        return "archived", {"archive_path": folder, "metadata_file": archive_path(folder, METADATA)}

    def record(self, tx: Transaction, outcomes: list[TellOutcome], _fresh: bool) -> Report:
        """Append `status-sent` for what was accepted, and postpone the rest."""
        tx.expect({told.study_id for told in outcomes if isinstance(told, Told)})
        for outcome in outcomes:
            match outcome:
                case Told():
                    self.append_told(tx, outcome)
                case Stays():
                    self._next_read_back(tx, outcome.work_item)
                case Moot():
                    for work_item in outcome.tells:
                        tx.drop(work_item.entry.position, work_item.stage)
                case NotTold():
                    self._postpone(tx, outcome)
        met = [outcome.error for outcome in outcomes if isinstance(outcome, NotTold) and outcome.error.shared]
        works = any(isinstance(outcome, (Told, Stays)) for outcome in outcomes)
        return Report(met, works, on_commit=partial(self._count, outcomes))

    def append_told(self, tx: Transaction, told: Told) -> None:
        """Append `status-sent`, and schedule its read-back."""
        cause = told.overwritten or told.tells[-1]
        of_no_study = cause.entry.study_id is None
        sent = StatusSentPayload(
            status=told.status,
            http_status=told.http_status,
            attempts=1 + max((work_item.attempts for work_item in told.tells), default=0),
            tells=[work_item.entry.position for work_item in told.tells],
            reason="overwritten" if told.overwritten else None,
            study_id=told.study_id if of_no_study else None,
            error=told.rejected if of_no_study else None,
        )
        # After an overwrite, use the next longer wait: a service that keeps overwriting must not fill the ledger.
        step = 0 if told.overwritten is None else min(told.overwritten.attempts + 1, len(CONFIRM_AFTER) - 1)
        due_in_s = CONFIRM_AFTER[step] * self._confirm_s
        new = sent.entry(cause.entry.study_id, cause=cause.entry.position)
        entry = tx.append(new, due_in_s=due_in_s, work_item=self._confirm_s > 0)
        if step > 0:
            tx.postpone(entry.position, Stage.CONFIRM, due_in_s=due_in_s, attempts=step)

    def _next_read_back(self, tx: Transaction, work_item: WorkItem) -> None:
        step = work_item.attempts + 1
        if step >= len(CONFIRM_AFTER) or self._confirm_s == 0:
            tx.drop(work_item.entry.position, Stage.CONFIRM)
            return
        since_s = max(0.0, (self._clock() - instant(work_item.entry.recorded_at)).total_seconds())
        tx.postpone(
            work_item.entry.position,
            Stage.CONFIRM,
            due_in_s=max(0.0, CONFIRM_AFTER[step] * self._confirm_s - since_s),
            attempts=step,
        )

    def _postpone(self, tx: Transaction, outcome: NotTold) -> None:
        error = outcome.error
        for work_item in outcome.work_items:
            if work_item.stage is Stage.CONFIRM:  # its attempts count read-backs, not failures
                tx.postpone(work_item.entry.position, work_item.stage, due_in_s=max(1.0, self._confirm_s / 2), attempts=work_item.attempts)
                continue
            attempt = work_item.attempts + 1
            wait_s = (TELL_AGAIN_AWAY if error.shared else TELL_AGAIN_REFUSED).wait_s(attempt, chance=self._random.random())
            tx.postpone(work_item.entry.position, work_item.stage, due_in_s=wait_s, attempts=attempt)
            if worth_an_entry(attempt) and not error.shared and work_item is outcome.work_items[-1]:
                retry_at = later(rfc3339(self._clock()), wait_s)
                append_failed(tx, "tell", work_item, error, attempt=attempt, retry_at=retry_at, of_upload=False)

    def _count(self, outcomes: list[TellOutcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Told):
                self._metrics.told.labels(outcome.status).inc()
                if outcome.overwritten:
                    self._metrics.overwritten.inc()
            elif isinstance(outcome, NotTold):
                self._metrics.retries.labels("tell", outcome.error.code).inc()


def _about(entry: Entry) -> tuple[str, str | None]:
    """Return the study that a status is about, and why its message was rejected, if it was: a `rejected` entry has no study_id."""
    if entry.kind == Kind.REJECTED:
        rejected = RejectedPayload.of(entry)
        return entry.study_id or _named(rejected.study_id), rejected.reason
    if entry.study_id is not None:
        return entry.study_id, None
    sent = StatusSentPayload.of(entry)
    return _named(sent.study_id), str(sent.error)


def _named(study_id: str | None) -> str:
    if study_id is None:
        raise UnreadablePayload("an entry of no study, with something to tell, names none")
    return study_id
