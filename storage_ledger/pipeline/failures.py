"""What goes wrong with one upload, as an entry."""

from __future__ import annotations

import random
from collections.abc import Sequence

from storage_ledger.domain.backoff import backoff_s, worth_an_entry
from storage_ledger.domain.entries import Entry, Kind, NewEntry, faults
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

NOT_WHOLE = frozenset({"upload-empty", "upload-hard-linked"})
"""What is there, and is no upload yet."""
WAITS_FOR_THE_FILE = frozenset({"upload-missing", "upload-unreadable"}) | NOT_WHOLE
"""What may still become a whole file within the grace; after it the upload is quarantined under the same code."""
QUIET = WAITS_FOR_THE_FILE | {"upload-changing", "upload-settling"}
"""What may pass by itself, and says nothing in the ledger before the grace is over."""
INTERNAL_ERROR = "internal-error"
CONFIRM_AGAIN_S = 60.0
UNSAID_AGAIN_S = 300.0


def append_failed(
    tx: Transaction, step: str, work_item: WorkItem, error: Retryable, *, attempt: int, retry_at: str | None, of_upload: bool = True
) -> Entry | None:
    """Record an attempt that failed; `retry_at` is None where nobody knows when there will be another.

    Nothing is appended of a work item whose own entry is damaged: nobody knows whose it is. The log says so.
    """
    if found := faults(work_item.entry):
        logs.get().error(f"{step}.entry-damaged", position=work_item.entry.position, code=found[0], attempt=attempt)
        return None
    payload = {
        "step": step,
        "code": error.code,
        "detail": error.detail,
        "errno": error.errno,
        "attempt": attempt,
        "retry_at": retry_at,
    }
    if of_upload and (path := work_item.entry.data.get("upload_path")) is not None:
        payload["upload_path"] = path
    return tx.append(NewEntry(Kind.FAILED, payload, work_item.entry.study_id, work_item.entry.position))


def record_internal_error(ledger: Ledger, metrics: Metrics, work_item: WorkItem, error: BaseException) -> None:
    """Put off a work item whose work raised something that nobody foresaw, and record it as `failed`.

    Durable on return. The log has the type and the place; the text, which may quote a patient's data, is kept nowhere.
    Raises `LedgerError`, and whatever that very work item makes the append raise.
    """
    stage, position = work_item.stage, work_item.entry.position
    attempts = work_item.attempts if isinstance(work_item.attempts, int) else 0
    attempt = attempts + 1
    wait_s = backoff_s(attempt, base_s=0.5, cap_s=300, chance=random.random())  # noqa: S311 - spreads retries, guards nothing
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
            append_failed(tx, stage.value, work_item, what, attempt=attempt, retry_at=None, of_upload=stage is not Stage.TELL)


def postpone_unsaid(ledger: Ledger, work_item: WorkItem) -> None:
    """Put off a work item whose own entry keeps its failure from being recorded. It waits longest at once: that entry stays as it is."""
    with ledger.write() as tx:
        if tx.is_pending(work_item.entry.position, work_item.stage):
            attempts = work_item.attempts if isinstance(work_item.attempts, int) else 0
            tx.postpone(work_item.entry.position, work_item.stage, due_in_s=UNSAID_AGAIN_S, attempts=attempts)


def record_hanging(ledger: Ledger, step: str, work_items: Sequence[WorkItem]) -> None:
    """A call has not come back for minutes: say so, for each of these. What comes of it is recorded when it does."""
    error = Retryable("hangs", "a call into uploads or the archive has not come back")
    with ledger.write() as tx:
        for work_item in work_items:
            if tx.is_pending(work_item.entry.position, work_item.stage):
                append_failed(tx, step, work_item, error, attempt=work_item.attempts + 1, retry_at=None)
