"""Wires `storage-ledger serve`, the running service, from the settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.no_pixels import without_image_libraries
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.errors import BadSettings
from storage_ledger.index.follower import Index
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.operations.verify.scrub import Scrub
from storage_ledger.operations.verify.selection import VerifyPaths
from storage_ledger.pipeline.failures import WAITS, Outages
from storage_ledger.pipeline.notify import CONFIRM_AFTER
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.pubsub import PubSub
from storage_ledger.pipeline.receive.source import Source
from storage_ledger.pipeline.receive.stream import Stream
from storage_ledger.pipeline.reconcile.sweep import Reconciler
from storage_ledger.pipeline.replicate import Replicator
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.pipeline.wakeups import Signal, Sleeper, Wakeups
from storage_ledger.service.checkpoint_signing import CheckpointSigning
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.service.health import HEALTH, make_app
from storage_ledger.service.metadata_sync import MetadataSync
from storage_ledger.service.process import Parts, Service
from storage_ledger.service.steps import Steps, StepsHere
from storage_ledger.service.worker_processes import WorkerProcesses
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.system.http_server import WebServer
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sandbox import hide_memory
from storage_ledger.wiring import worker_commands
from storage_ledger.wiring.commits import count_commits
from storage_ledger.wiring.copy_ledger import local_copy
from storage_ledger.wiring.heads import heads_of
from storage_ledger.wiring.ledgers import migrated, opened, term_held
from storage_ledger.wiring.stores import joined_mirror, reading, serve_lock_held

if TYPE_CHECKING:
    from storage_ledger.ledger.proof.signer import Signer
    from storage_ledger.ledger.proof.tree_hashes import LeafHashes


def serve(settings: Settings) -> int:
    """Run the service until it is stopped, and return the exit code.

    Raises `Locked` if another `serve` is running on this ledger, `LedgerUnusable`, `BadSettings`.
    """
    hide_memory()
    logs.configure(settings.log_level, environment=settings.environment)
    with serve_lock_held(settings) as lock:
        done = migrated(settings)
        if done.changed:
            logs.get().info("ledger.migrated", from_revision=done.before, to_revision=done.after)
        _make_archive(settings)
        with term_held(settings) as term, closing(StatusClient(settings.status_service_url)) as client:
            service = Service(_parts(settings, client, lock, term))
            app = make_app(service.reasons, service.render_metrics, CheckpointFolder(settings.archive_path).latest)
            return service.run(WebServer(app, settings.http_host, settings.http_port, health=HEALTH))


def _make_archive(settings: Settings) -> None:
    """Create the archive's folder at the first start. Once there are entries, a missing folder is a volume that is not mounted."""
    if settings.archive_path.exists():
        return
    with reading(settings) as ledger:
        if ledger.last() is None:
            try:
                settings.archive_path.mkdir(mode=0o750, parents=True, exist_ok=True)
            except OSError as error:
                text = f"ARCHIVE_PATH: {settings.archive_path} does not exist and cannot be created: {os.strerror(error.errno or 0)}"
                raise BadSettings("bad-settings", text, errno=error.errno) from error
            logs.get().info("archive.made")


def _source(settings: Settings, ledger_id: str, metrics: Metrics, on_subscribed: Callable[[], None]) -> Source:
    if settings.described_stream is None:
        return PubSub(settings.redis_address, settings.described_channel, metrics, on_subscribed=on_subscribed)
    # The ledger's id survives a new container or machine, and only one process at a time uses a ledger.
    return Stream(settings.redis_address, settings.described_stream, metrics, consumer=ledger_id)


def _parts(settings: Settings, client: StatusClient, lock: int, term: str | None = None) -> Parts:
    metrics = Metrics()
    wakeups = Wakeups()
    ledger = opened(settings, count_commits(metrics, wakeups), term=term)
    clock_watch = ClockWatch(utc_now, on_set=partial(_make_due, ledger, settings))
    _make_due(ledger, settings)  # recovery: work items that an earlier process postponed are due now
    archive = FilesystemArchive(settings.archive_path, metadata_later=True)
    mirror = joined_mirror(settings, ledger, archive.recognise)
    uploads = Uploads(settings.uploads_path, ledger_id=ledger.ledger_id)
    count = worker_commands.processes(settings)
    outages = Outages(ledger, metrics, but_not=WAITS if count else ())
    reconciler = Reconciler(
        ledger,
        uploads,
        client,
        metrics=metrics,
        clock=utc_now,
        grace_s=settings.reconcile_grace_seconds,
        every_s=settings.reconcile_seconds,
        wakeup=wakeups.of(Sleeper.RECONCILE),
    )
    source = _source(settings, ledger.ledger_id, metrics, on_subscribed=partial(wakeups.ring, Signal.SUBSCRIBED))
    intake = Intake(
        ledger,
        source,
        UploadPaths(str(settings.uploads_path), settings.neighbour_uploads_paths),
        metrics=metrics,
        clock=utc_now,
        rejected_per_hour=settings.rejected_per_hour,
        wakeups=wakeups,
    )
    replicator = Replicator(ledger, mirror, outages=outages, metrics=metrics, clock=utc_now, wakeups=wakeups)
    steps: Steps
    if count:
        steps = WorkerProcesses(
            worker_commands.commands(count, term),
            lock=lock,
            known=lambda: {"mirrored": mirror.position, "archive": archive.recognised},
            wakeups=wakeups,
        )
    else:
        with without_image_libraries():
            from storage_ledger.wiring.steps import pools  # noqa: PLC0415 - with workers, this process reads no DICOM file
        here = pools(
            settings,
            ledger=ledger,
            archive=archive,
            uploads=uploads,
            client=client,
            outages=outages,
            metrics=metrics,
            wakeups=wakeups,
            steady_since=clock_watch.steady_since,
            mirrored=lambda: mirror.position,
            share=None,
        )
        steps = StepsHere(here, wakeups, replicator.follow)
    copy = None if settings.ledger_url is None else local_copy(settings, partial(wakeups.ring, Signal.COPIED))
    index = Index(settings.index_file, ledger if copy is None else copy.ledger, processes=RebuildProcesses.of(settings.ledger_file))
    scrub = Scrub(
        ledger,
        VerifyPaths.of(settings),
        rate=settings.scrub_rate_mb_s * 1e6,
        metrics=metrics,
        clock=utc_now,
        index_position=lambda: index.position,
    )
    checkpoints = CheckpointSigning(
        partial(_signer, settings, ledger),
        ledger.leaf_hashes,
        CheckpointFolder(settings.archive_path),
        mirror,
        every_s=settings.checkpoint_seconds,
        metrics=metrics,
        clock=utc_now,
    )
    return Parts(
        ledger=ledger,
        archive=archive,
        uploads_root=settings.uploads_path,
        archive_root=settings.archive_path,
        ledger_root=settings.ledger_path,
        source=source,
        intake=intake,
        steps=steps,
        metadata_sync=MetadataSync(ledger, archive),
        replicator=replicator,
        reconciler=reconciler,
        scrub=scrub,
        checkpoints=checkpoints,
        heads=heads_of(settings, ledger, metrics),
        copy=copy,
        index=index,
        wakeups=wakeups,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        clock_watch=clock_watch,
    )


def _signer(settings: Settings, ledger: Ledger, leaf_hashes: LeafHashes) -> Signer:
    from storage_ledger.wiring.checkpoint import signer_of  # noqa: PLC0415 - `cryptography` takes memory and time, and may never be needed

    return signer_of(settings, ledger, leaf_hashes)


def _make_due(ledger: Ledger, settings: Settings) -> None:
    with ledger.write() as tx:
        tx.make_due(beyond_s=CONFIRM_AFTER[-1] * settings.status_confirm_seconds)
