"""Wires `storage-ledger reconcile` from the settings."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext

from storage_ledger.archive.uploads import Uploads
from storage_ledger.pipeline.reconcile.sweep import Reconciler, Sweep
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics
from storage_ledger.wiring.stores import UMASK, mirror_caught_up, reading


def reconcile(settings: Settings, on_progress: Callable[[Sweep], None], *, dry_run: bool) -> Sweep:
    """Search all of uploads once, whether or not `serve` is running.

    `serve` then processes the entries and work items that this appends; none in a `dry_run`.
    """
    os.umask(UMASK)
    logs.configure(settings.log_level, environment=settings.environment)
    client = StatusClient(settings.status_service_url)
    try:
        with reading(settings) as ledger, nullcontext() if dry_run else mirror_caught_up(settings, ledger):
            reconciler = Reconciler(
                ledger,
                Uploads(settings.uploads_path, ledger_id=ledger.ledger_id),
                client,
                metrics=Metrics(),
                clock=utc_now,
                grace_s=settings.reconcile_grace_seconds,
                wakeup=threading.Event(),
                dry_run=dry_run,
            )
            return reconciler.sweep(threading.Event(), most_fruitless=math.inf, on_progress=on_progress)
    finally:
        client.close()
