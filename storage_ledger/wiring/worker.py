"""Wires a worker process of `serve` from the settings."""

from __future__ import annotations

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.share import Share
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Wakeups
from storage_ledger.service.channel import Channel
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.service.worker import Known, Worker, WorkerParts
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sandbox import hide_memory
from storage_ledger.wiring.commits import count_commits
from storage_ledger.wiring.ledgers import opened
from storage_ledger.wiring.steps import pools


def work(settings: Settings, share: Share, channel: Channel, term: str | None) -> int:
    """Run a worker until the service stops it, and return the exit code. Raises `LedgerUnusable`."""
    hide_memory()
    logs.configure(settings.log_level, environment=settings.environment)
    known = Known()
    metrics = Metrics()
    wakeups = Wakeups()
    ledger = opened(settings, count_commits(metrics, wakeups), term=term)
    archive = FilesystemArchive(settings.archive_path, metadata_later=True)
    clock_watch = ClockWatch(utc_now, on_set=lambda: None)  # the service makes all work items due
    outages = Outages(ledger, metrics, but_not={"mirror"})
    client = StatusClient(settings.status_service_url)
    try:
        steps = pools(
            settings,
            ledger=ledger,
            archive=archive,
            uploads=Uploads(settings.uploads_path, ledger_id=ledger.ledger_id),
            client=client,
            outages=outages,
            metrics=metrics,
            wakeups=wakeups,
            steady_since=clock_watch.steady_since,
            mirrored=lambda: known.mirrored,
            share=share,
        )
        parts = WorkerParts(ledger, steps, wakeups, outages, metrics, clock_watch, archive.recognise, known)
        return Worker(parts, channel).run()
    finally:
        client.close()
