"""Failures as entries: of one work item, and of a whole step (an outage).

A shared cause (a full disk, an unreachable service) is one `failed` entry when it begins and one `recovered` when it ends.
An intermittent cause (small files fit on a nearly full volume, large ones don't) would fill the ledger with such pairs.
So each time it returns, it must stay away for longer before it counts as ended.

An outage also ends when its step has no work left: everything is archived, quarantined or discarded, and nothing will try the
step until the next file arrives. The same rule ends an outage whose end a crash kept from being recorded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
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
"""The file exists but is not a complete upload yet."""
WAITS_FOR_THE_FILE = frozenset({UPLOAD_MISSING, UPLOAD_UNREADABLE}) | NOT_WHOLE
"""May become a complete file within the grace period; after that, the upload is quarantined with the same code."""
QUIET = WAITS_FOR_THE_FILE | {UPLOAD_CHANGING, UPLOAD_SETTLING}
"""May pass by itself, and is not recorded before the grace period ends."""
CONFIRM_AGAIN_S = 60.0
UNSAID_AGAIN_S = 300.0

LOOK_EVERY_S = 1.0
REMEMBERED_S = 86_400.0
READY_AFTER_S = 30.0

WAITS: dict[StepName, list[Stage]] = {"place": [Stage.PLACE], "remove": [Stage.REMOVE], "tell": [Stage.TELL, Stage.CONFIRM]}
"""The stages that wait while a step fails. The mirror is retried continuously."""

STEPS: dict[Stage, StepName] = {stage: step for step, stages in WAITS.items() for stage in stages}
"""The step that works on each stage."""

Key = tuple[str, str]


def append_failed(
    tx: Transaction, step: StepName, work_item: WorkItem, error: Retryable, *, attempt: int, retry_at: str | None, of_upload: bool = True
) -> Entry | None:
    """Append `failed` for one attempt; `retry_at` is None if the next attempt is not scheduled.

    If the work item's own entry is damaged, its study is unknown: nothing is appended, and the log says so.
    """
    if found := faults(work_item.entry):
        logs.get().error(f"{step}.entry-damaged", position=work_item.entry.position, code=found[0], attempt=attempt)
        return None
    path = work_item.entry.data.get("upload_path") if of_upload else None
    failed = FailedPayload(step, error.code, error.detail, error.errno, attempt, retry_at, path)
    return tx.append(failed.entry(work_item.entry.study_id, cause=work_item.entry.position))


def record_internal_error(ledger: Ledger, metrics: Metrics, work_item: WorkItem, error: BaseException) -> None:
    """Postpone a work item whose work raised an unexpected exception, and record it as `failed`.

    Durable on return. The log gets the exception's type and place; its text may quote patient data and is kept nowhere.
    Raises `LedgerError`, and anything that this work item makes the append raise.
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
    """Postpone a work item whose failure cannot be recorded because of its own entry, by the longest time: the entry will not change."""
    with ledger.write() as tx:
        if tx.is_pending(work_item.entry.position, work_item.stage):
            attempts = work_item.attempts if isinstance(work_item.attempts, int) else 0
            tx.postpone(work_item.entry.position, work_item.stage, due_in_s=UNSAID_AGAIN_S, attempts=attempts)


def record_hanging(ledger: Ledger, step: StepName, work_items: Sequence[WorkItem]) -> None:
    """Append `failed` (`hangs`) for each of these work items: a call has not returned for minutes. Its outcome is recorded later."""
    error = Retryable("hangs", "a call into uploads or the archive has not come back")
    with ledger.write() as tx:
        for work_item in work_items:
            if tx.is_pending(work_item.entry.position, work_item.stage):
                append_failed(tx, step, work_item, error, attempt=work_item.attempts + 1, retry_at=None)


@dataclass(slots=True)
class _Open:
    """`positions`: of its `failed` entries (usually one). `well_since`: when the step worked again; None until then."""

    positions: list[int]
    well_since: float | None = None


class Outages:
    """The current outages by step and code, including those in the ledger from before this process, `but_not` those of other processes.

    Other processes may work on the same steps. The ledger says which outages are open: whoever meets the cause first begins one, and
    whoever first has worked well for long enough ends it.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        but_not: Collection[StepName] = (),
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open: dict[Key, _Open] = {}
        self._ended: dict[Key, list[float]] = {}
        for (step, code), positions in self._recorded().items():
            if step not in but_not:
                self._open[step, code] = _Open(positions)
                self._metrics.outage.labels(step, code).set(1)

    def current(self) -> list[Key]:
        """Return (step, code) of each outage that makes the service not ready: met within the last half minute, or not known to be over."""
        with self._lock:
            now = self._monotonic()
            return sorted(key for key, o in self._open.items() if o.well_since is None or now - o.well_since < READY_AFTER_S)

    def goes_on(self, step: StepName) -> bool:
        """Return whether the step has an outage and has not worked since."""
        with self._lock:
            return any(key[0] == step and outage.well_since is None for key, outage in self._open.items())

    def begin(self, tx: Transaction, step: StepName, error: Retryable, *, attempt: int, retry_at: str) -> None:
        """Append `failed`, unless this outage is open already."""
        with self._lock:
            outage = self._open.get((step, error.code))
            if outage is not None:
                outage.well_since = None
                return
        positions = self._recorded().get((step, error.code))  # of another process
        if positions is None:
            failed = FailedPayload(step, error.code, error.detail, error.errno, attempt, retry_at)
            positions = [tx.append(failed.entry_of_outage()).position]

        def opened() -> None:
            with self._lock:
                self._open[step, error.code] = _Open(positions)
            self._metrics.outage.labels(step, error.code).set(1)
            logs.get().error("outage.begins", step=step, code=error.code, errno=error.errno)

        tx.on_commit(opened)

    def end(self, tx: Transaction, step: StepName) -> None:
        """Note that the step works again. Appends `recovered` for outages over for long enough; `run` handles the others later."""
        with self._lock:
            now = self._monotonic()
            for key, outage in self._open.items():
                if key[0] == step and outage.well_since is None:
                    outage.well_since = now
        self._append_ended(tx)

    def run(self, stop: threading.Event) -> None:
        """Append `recovered` for outages that have been over long enough, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Do one round of `run`."""
        try:
            self._forget_ended()
            self._let_go()
            if not self._due():
                return
            with self._ledger.write() as tx:
                self._append_ended(tx)
        except LedgerBusy as error:
            logs.get().warning("ledger.busy", thread="outages", code=error.code)

    def _recorded(self) -> dict[Key, list[int]]:
        """Return the positions of the `failed` entries of each outage that is open in the ledger. In a transaction, that is final."""
        return {(outage.step, outage.code): list(outage.positions) for outage in going_on(self._ledger.open_outages())}

    def _forget_ended(self) -> None:
        """Forget outages that another process has ended."""
        with self._lock:
            known = dict(self._open)
        if not known:
            return
        recorded = self._recorded()
        with self._lock:
            ended = [key for key, outage in known.items() if key not in recorded and self._open.get(key) is outage]
            for key in ended:
                self._close(key)
        for step, code in ended:
            self._metrics.outage.labels(step, code).set(0)

    def _close(self, key: Key) -> None:
        del self._open[key]
        self._ended.setdefault(key, []).append(self._monotonic())

    def _let_go(self) -> None:
        """Start the end of outages whose step has no work left."""
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
        if not over:
            return
        recorded = self._recorded()
        for step, code in over:
            for position in recorded.get((step, code), ()):  # none: another process was faster
                tx.append(RecoveredPayload(step, code).entry(failed=position))

        def closed() -> None:
            with self._lock:
                for key in over:
                    self._close(key)
            for step, code in over:
                self._metrics.outage.labels(step, code).set(0)
                logs.get().info("outage.ends", step=step, code=code)

        tx.on_commit(closed)
