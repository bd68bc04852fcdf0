"""Re-send the statuses that the Status Service has lost.

The notify step does this: it reads each study's last status back, as it does after sending one, and re-sends it if it is gone. A
dry run passes a Status Service client that sends nothing (`dry_run.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import StorageLedgerError
from storage_ledger.ledger.contract import Ledger, WorkItem
from storage_ledger.operations.progress import ShowProgress
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.replay.time_budget import RetryBudget
from storage_ledger.operations.unresolved_problems import Problem, Problems
from storage_ledger.pipeline.notify import CONFIRM_AFTER, Notifier, NotTold, Stays, Told
from storage_ledger.system.parallel import batches, each_batch
from storage_ledger.system.rate_limit import Pace

WORKERS = 6
BATCH = 64
REJECTED_A_PAGE = 256
OUTCOMES = frozenset({Kind.ARCHIVED, Kind.QUARANTINED, Kind.DISCARDED})


def resend_statuses(
    ledger: Ledger,
    notifier: Notifier,
    studies: Iterable[str],
    *,
    rejected: bool,
    dry_run: bool,
    pace: Pace,
    budget: RetryBudget,
    problems: Problems,
    counts: ReplayCounts,
    show: ShowProgress,
) -> None:
    """Read each study's status back from the Status Service, and re-send it if the answer is `described` or there is none.

    With `rejected`, do the same for the statuses of rejected messages. Studies with a file still to be placed or a status still to
    be sent are left to the service. Each status sent is recorded as `status-sent` (not in a `dry_run`). Raises `Retryable` if the
    Status Service is unavailable for longer than `budget` allows.
    """

    def send(last: tuple[str, WorkItem]) -> Told | None:
        return _send_if_lost(notifier, last[1], pace, budget)

    last_sent = chain(_last_of_each(ledger, studies), _of_rejected(ledger) if rejected else ())
    done = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="statuses") as pool:
        for outcomes in each_batch(pool, send, map(_first_of_each_study, batches(last_sent, BATCH))):
            sent = [outcome for _, outcome in outcomes if isinstance(outcome, Told)]
            if sent and not dry_run:
                _record(ledger, notifier, sent)
            counts.mended += len(sent)
            for (study_id, _), outcome in outcomes:
                if isinstance(outcome, StorageLedgerError):
                    counts.left += 1
                    problems.add(Problem(outcome.code, study_id, detail=outcome.detail))
                else:
                    counts.looked_at += 1
            done += len(outcomes)
            show(done)


def _last_of_each(ledger: Ledger, studies: Iterable[str]) -> Iterator[tuple[str, WorkItem]]:
    """Yield each study's last `status-sent`; if it has none (an adopted study), its last entry with a status to send."""
    for study_id in studies:
        sent = outcome = None
        for entry in ledger.study(study_id):
            if entry.kind == Kind.STATUS_SENT:
                sent = entry
            elif entry.kind in OUTCOMES:
                outcome = entry
        last = sent or outcome
        if last is not None:
            yield study_id, _to_read_back(last)


def _of_rejected(ledger: Ledger) -> Iterator[tuple[str, WorkItem]]:
    """Yield the statuses of rejected messages, newest first, so that an older status never replaces a newer one."""
    before = None
    while page := list(ledger.of_no_study((Kind.STATUS_SENT.value,), REJECTED_A_PAGE, before=before)):
        yield from ((entry.data["study_id"], _to_read_back(entry)) for entry in page)
        before = page[-1].position


def _to_read_back(entry: Entry) -> WorkItem:
    """Return a work item to read a status back; if that re-sends it, it is read back once more, after the longest wait."""
    return WorkItem(entry, Stage.CONFIRM, entry.recorded_at, attempts=len(CONFIRM_AFTER) - 2)


def _first_of_each_study(batch: list[tuple[str, WorkItem]]) -> list[tuple[str, WorkItem]]:
    """Keep only the newest of several rejected messages with the same study_id."""
    return list({study_id: (study_id, work_item) for study_id, work_item in reversed(batch)}.values())


def _send_if_lost(notifier: Notifier, last: WorkItem, pace: Pace, budget: RetryBudget) -> Told | None:
    """Return what was sent; None if the status is there or the service will send it.

    Raises the error that refused this status, or the one that exhausted `budget`.
    """
    while True:
        budget.require()
        pace.spend()
        outcome = notifier.tell([last])
        if isinstance(outcome, NotTold) and outcome.error.shared:
            budget.wait(outcome.error)
            continue
        budget.renew()
        if isinstance(outcome, (NotTold, Stays)) and outcome.error is not None:
            raise outcome.error
        return outcome if isinstance(outcome, Told) else None


def _record(ledger: Ledger, notifier: Notifier, sent: Sequence[Told]) -> None:
    """Append `status-sent` for each, as the notifier does, in one commit."""
    with ledger.write() as tx:
        for each in sent:
            notifier.append_told(tx, each)
