"""What goes wrong with one upload, as an entry."""

from __future__ import annotations

from collections.abc import Sequence

from storage_ledger.core.entries import Kind, NewEntry
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Duty, Ledger

WAITS_FOR_THE_FILE = frozenset({"upload-missing", "upload-unreadable"})
QUIET = WAITS_FOR_THE_FILE | {"upload-changing"}
"""What may mend itself within the grace, and says nothing in the ledger before the grace is over."""


def failed(step: str, duty: Duty, error: Retryable, *, attempt: int, retry_at: str | None) -> NewEntry:
    """An attempt that failed; `retry_at` is None where nobody knows when there will be another."""
    payload = {
        "step": step,
        "code": error.code,
        "detail": error.detail,
        "errno": error.errno,
        "attempt": attempt,
        "retry_at": retry_at,
        "upload_path": duty.entry.data["upload_path"],
    }
    return NewEntry(Kind.FAILED, payload, duty.entry.study_id, duty.entry.position)


def record_hanging(ledger: Ledger, step: str, duties: Sequence[Duty]) -> None:
    """A call has not come back for minutes: say so, for each of these. What comes of it is recorded when it does."""
    error = Retryable("hangs", "a call into uploads or the archive has not come back")
    with ledger.write() as tx:
        for duty in duties:
            if tx.is_pending(duty.entry.position, duty.stage):
                tx.append(failed(step, duty, error, attempt=duty.attempts + 1, retry_at=None))
