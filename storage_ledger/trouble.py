"""What goes wrong with one upload, as an entry."""

from __future__ import annotations

from collections.abc import Sequence

from storage_ledger import logs
from storage_ledger.core.entries import Entry, Kind, NewEntry, faults
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import Duty, Ledger, Transaction

WAITS_FOR_THE_FILE = frozenset({"upload-missing", "upload-unreadable"})
QUIET = WAITS_FOR_THE_FILE | {"upload-changing"}
"""What may mend itself within the grace, and says nothing in the ledger before the grace is over."""


def append_failed(
    tx: Transaction, step: str, duty: Duty, error: Retryable, *, attempt: int, retry_at: str | None, of_upload: bool = True
) -> Entry | None:
    """Record an attempt that failed; `retry_at` is None where nobody knows when there will be another.

    Nothing is appended of a duty whose own entry is damaged: nobody knows whose it is. The log says so.
    """
    if found := faults(duty.entry):
        logs.get().error(f"{step}.entry-damaged", position=duty.entry.position, code=found[0], attempt=attempt)
        return None
    payload = {
        "step": step,
        "code": error.code,
        "detail": error.detail,
        "errno": error.errno,
        "attempt": attempt,
        "retry_at": retry_at,
    }
    if of_upload:
        payload["upload_path"] = duty.entry.data["upload_path"]
    return tx.append(NewEntry(Kind.FAILED, payload, duty.entry.study_id, duty.entry.position))


def record_hanging(ledger: Ledger, step: str, duties: Sequence[Duty]) -> None:
    """A call has not come back for minutes: say so, for each of these. What comes of it is recorded when it does."""
    error = Retryable("hangs", "a call into uploads or the archive has not come back")
    with ledger.write() as tx:
        for duty in duties:
            if tx.is_pending(duty.entry.position, duty.stage):
                append_failed(tx, step, duty, error, attempt=duty.attempts + 1, retry_at=None)
