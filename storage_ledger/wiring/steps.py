"""Settings → the pools of place, remove and notify, for the service's own process or for a worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.share import Share
from storage_ledger.ledger.contract import Ledger
from storage_ledger.pipeline import notify, remove
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.place.placer import POLICY as PLACE
from storage_ledger.pipeline.place.placer import Placer
from storage_ledger.pipeline.place.recorder import PlaceRecorder
from storage_ledger.pipeline.remove import Remover
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.service.steps import Pools
from storage_ledger.settings import Settings
from storage_ledger.system.clock import utc_now
from storage_ledger.system.metrics import Metrics


def pools(
    settings: Settings,
    *,
    ledger: Ledger,
    archive: FilesystemArchive,
    uploads: Uploads,
    client: StatusClient,
    outages: Outages,
    metrics: Metrics,
    wakeups: Wakeups,
    steady_since: Callable[[], datetime],
    mirrored: Callable[[], int],
    share: Share | None,
) -> Pools:
    """Return the pools of the three steps. `mirrored` returns the mirror's last position; `share`: see `WorkerPool`."""
    remover = Remover(uploads, archive, metrics=metrics, clock=utc_now, settle_s=settings.upload_settle_seconds)
    placer = Placer(
        ledger,
        uploads,
        archive,
        clock=utc_now,
        grace_s=settings.missing_file_grace_seconds,
        steady_since=steady_since,
    )
    recorder = PlaceRecorder(placer.folds, metrics=metrics, clock=utc_now, on_copied=remover.remember)
    notifier = Notifier(
        ledger,
        client,
        archive_root=str(settings.archive_path),
        metrics=metrics,
        clock=utc_now,
        confirm_s=settings.status_confirm_seconds,
    )
    placing = WorkerPool(
        PLACE,
        ledger,
        work=placer.place_batch,
        before_commit=placer.sync_new_folders,
        record=recorder.record,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        wakeup=wakeups.of(Sleeper.PLACE),
        share=share,
        together=archive.syncs_together,
    )
    removing = WorkerPool(
        remove.POLICY,
        ledger,
        work=remover.remove_batch,
        record=remover.record,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        wakeup=wakeups.of(Sleeper.REMOVE),
        up_to=mirrored,
        share=share,
    )
    notifying = WorkerPool(
        notify.POLICY,
        ledger,
        work=notifier.tell,
        record=notifier.record,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        wakeup=wakeups.of(Sleeper.NOTIFY),
        up_to=mirrored,
        share=share,
    )
    return Pools(placing, removing, notifying)
