"""What a process of the service does after each commit."""

from __future__ import annotations

from collections.abc import Callable

from storage_ledger.ledger.contract import Commit
from storage_ledger.pipeline.wakeups import Wakeups
from storage_ledger.system.metrics import Metrics


def count_commits(metrics: Metrics, wakeups: Wakeups) -> Callable[[Commit], None]:
    """Return what a ledger calls after each commit: it counts the entries and wakes those who wait for them."""

    def committed(commit: Commit) -> None:
        for kind in commit.kinds:
            metrics.entries.labels(kind).inc()
        wakeups.committed(commit)

    return committed
