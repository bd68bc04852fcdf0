"""What goes wrong, as entries: with one work item, and with a whole step.

A shared cause (a full disk, an absent neighbour) is one `failed` entry when it begins and one `recovered` when it ends.
A cause that comes and goes (small files fit on a nearly full volume, large ones don't) would fill the ledger with pairs of
these. So each time that it came back, it must have been gone for longer before it counts as ended.

An outage for which nothing waits any more has ended, too: what did wait is archived, quarantined or given up, and nothing will
try that step before the next file comes. That is also how the end of an outage is seen that a crash kept from being recorded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage_ledger.domain.backoff import INTERNAL_ERROR_AGAIN, calm_s, worth_an_entry
from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.outages import going_on
from storage_ledger.domain.payloads import FailedPayload, RecoveredPayload
from storage_ledger.domain.work_queue import Stage, StepName
from storage_ledger.errors import (
    INTERNAL_ERROR,
    UPLOAD_CHANGING,
    UPLOAD_EMPTY,
    UPLOAD_HARD_LINKED,
    UPLOAD_MISSING,
    UPLOAD_SETTLING,
    UPLOAD_UNREADABLE,
    LedgerBusy,
    Retryable,
)
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

NOT_WHOLE = frozenset({UPLOAD_EMPTY, UPLOAD_HARD_LINKED})
"""What is there, and is no upload yet."""
WAITS_FOR_THE_FILE = frozenset({UPLOAD_MISSING, UPLOAD_UNREADABLE}) | NOT_WHOLE
"""What may still become a whole file within the grace; after it the upload is quarantined under the same code."""
QUIET = WAITS_FOR_THE_FILE | {UPLOAD_CHANGING, UPLOAD_SETTLING}
"""What may pass by itself, and says nothing in the ledger before the grace is over."""
CONFIRM_AGAIN_S = 60.0
UNSAID_AGAIN_S = 300.0

LOOK_EVERY_S = 1.0
REMEMBERED_S = 86_400.0
READY_AFTER_S = 30.0

WAITS: dict[StepName, list[Stage]] = {"place": [Stage.PLACE], "remove": [Stage.REMOVE], "tell": [Stage.TELL, Stage.CONFIRM]}
"""What waits while a step fails. The mirror is tried all the time."""

STEPS: dict[Stage, StepName] = {stage: step for step, stages in WAITS.items() for stage in stages}
"""The step that works on each stage."""

Key = tuple[str, str]


def append_failed(
    tx: Transaction, step: StepName, work_item: WorkItem, error: Retryable, *, attempt: int, retry_at: str | None, of_upload: bool = True
) -> Entry | None:
    """Record an attempt that failed; `retry_at` is None where nobody knows when there will be another.

    Nothing is appended of a work item whose own entry is damaged: nobody knows whose it is. The log says so.
    """
    if found := faults(work_item.entry):
        logs.get().error(f"{step}.entry-damaged", position=work_item.entry.position, code=found[0], attempt=attempt)
        return None
    path = work_item.entry.data.get("upload_path") if of_upload else None
    failed = FailedPayload(step, error.code, error.detail, error.errno, attempt, retry_at, path)
    return tx.append(failed.entry(work_item.entry.study_id, cause=work_item.entry.position))


def record_internal_error(ledger: Ledger, metrics: Metrics, work_item: WorkItem, error: BaseException) -> None:
    """Put off a work item whose work raised something that nobody foresaw, and record it as `failed`.

    Durable on return. The log has the type and the place; the text, which may quote a patient's data, is kept nowhere.
    Raises `LedgerError`, and whatever that very work item makes the append raise.
    """
    stage, position = work_item.stage, work_item.entry.position
    attempts = work_item.attempts if isinstance(work_item.attempts, int) else 0
    attempt = attempts + 1
    wait_s = INTERNAL_ERROR_AGAIN.wait_s(attempt, chance=random.random())  # noqa: S311 - spreads retries, guards nothing
    logs.get().error(
        f"{stage.value}.{INTERNAL_ERROR}",
        position=position,
        study_id=work_item.entry.study_id,
        attempt=attempt,
        error_type=type(error).__name__,
        frames_at=logs.where(error),
    )
    metrics.retries.labels(stage.value, INTERNAL_ERROR).inc()
    with ledger.write() as tx:
        if not tx.is_pending(position, stage):
            return
        if stage is Stage.CONFIRM:  # its attempts count read-backs, not failures
            tx.postpone(position, stage, due_in_s=max(wait_s, CONFIRM_AGAIN_S), attempts=attempts)
            return
        tx.postpone(position, stage, due_in_s=wait_s, attempts=attempt)
        if worth_an_entry(attempt):
            what = Retryable(INTERNAL_ERROR, type(error).__name__)
            append_failed(tx, STEPS[stage], work_item, what, attempt=attempt, retry_at=None, of_upload=stage is not Stage.TELL)


def postpone_unsaid(ledger: Ledger, work_item: WorkItem) -> None:
    """Put off a work item whose own entry keeps its failure from being recorded. It waits longest at once: that entry stays as it is."""
    with ledger.write() as tx:
        if tx.is_pending(work_item.entry.position, work_item.stage):
            attempts = work_item.attempts if isinstance(work_item.attempts, int) else 0
            tx.postpone(work_item.entry.position, work_item.stage, due_in_s=UNSAID_AGAIN_S, attempts=attempts)


def record_hanging(ledger: Ledger, step: StepName, work_items: Sequence[WorkItem]) -> None:
    """A call has not come back for minutes: say so, for each of these. What comes of it is recorded when it does."""
    error = Retryable("hangs", "a call into uploads or the archive has not come back")
    with ledger.write() as tx:
        for work_item in work_items:
            if tx.is_pending(work_item.entry.position, work_item.stage):
                append_failed(tx, step, work_item, error, attempt=work_item.attempts + 1, retry_at=None)


@dataclass(slots=True)
class _Open:
    """`positions`: of its `failed` (one, unless an earlier process forgot one). `well_since`: last met then; None while it is met."""

    positions: list[int]
    well_since: float | None = None


class Outages:
    """What goes on just now, by step and code; what the ledger tells of before this process counts."""

    def __init__(self, ledger: Ledger, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open: dict[Key, _Open] = {}
        self._ended: dict[Key, list[float]] = {}
        for outage in going_on(ledger.open_outages()):
            self._open[outage.step, outage.code] = _Open(list(outage.positions))
            self._metrics.outage.labels(outage.step, outage.code).set(1)

    def current(self) -> list[Key]:
        """(step, code) of each that keeps us from being ready: met within the last half minute, or not seen to be over."""
        with self._lock:
            now = self._monotonic()
            return sorted(key for key, o in self._open.items() if o.well_since is None or now - o.well_since < READY_AFTER_S)

    def goes_on(self, step: StepName) -> bool:
        """Whether something of that step is met, and was not seen to work since."""
        with self._lock:
            return any(key[0] == step and outage.well_since is None for key, outage in self._open.items())

    def begin(self, tx: Transaction, step: StepName, error: Retryable, *, attempt: int, retry_at: str) -> None:
        """It is met: append `failed`, unless it is going on already."""
        with self._lock:
            outage = self._open.get((step, error.code))
            if outage is not None:
                outage.well_since = None
                return
        failed = FailedPayload(step, error.code, error.detail, error.errno, attempt, retry_at)
        position = tx.append(failed.entry_of_outage()).position

        def opened() -> None:
            with self._lock:
                self._open[step, error.code] = _Open([position])
            self._metrics.outage.labels(step, error.code).set(1)
            logs.get().error("outage.begins", step=step, code=error.code, errno=error.errno)

        tx.on_commit(opened)

    def end(self, tx: Transaction, step: StepName) -> None:
        """The step works again. Appends `recovered` for what has been gone long enough; `run` sees to the rest."""
        with self._lock:
            now = self._monotonic()
            for key, outage in self._open.items():
                if key[0] == step and outage.well_since is None:
                    outage.well_since = now
        self._append_ended(tx)

    def run(self, stop: threading.Event) -> None:
        """Append `recovered` for what nobody has met for long enough, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Once."""
        try:
            self._let_go()
            if not self._due():
                return
            with self._ledger.write() as tx:
                self._append_ended(tx)
        except LedgerBusy as error:
            logs.get().warning("ledger.busy", thread="outages", code=error.code)

    def _let_go(self) -> None:
        """Of what nothing waits for."""
        with self._lock:
            steps = {step for (step, _), outage in self._open.items() if outage.well_since is None}
        idle = {
            step
            for step, stages in WAITS.items()
            if step in steps and not self._ledger.due(stages, limit=1) and not self._ledger.next_due(stages)
        }
        with self._lock:
            for (step, _), outage in self._open.items():
                if step in idle and outage.well_since is None:
                    outage.well_since = self._monotonic()

    def _due(self) -> dict[Key, list[int]]:
        with self._lock:
            now = self._monotonic()
            return {
                key: outage.positions
                for key, outage in self._open.items()
                if outage.well_since is not None and now - outage.well_since >= calm_s(self._ends_lately(key, now))
            }

    def _ends_lately(self, key: Key, now: float) -> int:
        lately = [at for at in self._ended.get(key, ()) if now - at < REMEMBERED_S]
        self._ended[key] = lately
        return len(lately)

    def _append_ended(self, tx: Transaction) -> None:
        over = self._due()
        for (step, code), positions in over.items():
            for position in positions:
                tx.append(RecoveredPayload(step, code).entry(failed=position))

        def closed() -> None:
            with self._lock:
                for key in over:
                    del self._open[key]
                    self._ended.setdefault(key, []).append(self._monotonic())
            for step, code in over:
                self._metrics.outage.labels(step, code).set(0)
                logs.get().info("outage.ends", step=step, code=code)

        if over:
            tx.on_commit(closed)
