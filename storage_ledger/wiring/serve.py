"""Settings → the running service."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.errors import BadSettings
from storage_ledger.index.follower import Index
from storage_ledger.index.rebuild.partitions import Workers
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger, utc_now
from storage_ledger.operations.verify.scrub import Scrub
from storage_ledger.operations.verify.verification import Places
from storage_ledger.pipeline.notify import CONFIRM_AFTER, Notifier
from storage_ledger.pipeline.outages import Outages
from storage_ledger.pipeline.place import Placer
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.pubsub import PubSub
from storage_ledger.pipeline.receive.source import Source
from storage_ledger.pipeline.receive.stream import Stream
from storage_ledger.pipeline.reconcile.sweep import Reconciler
from storage_ledger.pipeline.remove import Remover
from storage_ledger.pipeline.replicate import Replicator
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.service.health import make_app
from storage_ledger.service.process import Parts, Service
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.http_server import WebServer
from storage_ledger.system.metrics import Metrics
from storage_ledger.wiring.stores import alone, joined_mirror, reading


def serve(settings: Settings) -> int:
    """Run the service until it is stopped. Returns the exit code.

    Raises `Locked` when another one runs, `LedgerUnusable`, `BadSettings`.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    with alone(settings, "serve"):
        done = migrate(settings.ledger_file)
        if done.changed:
            logs.get().info("ledger.migrated", from_revision=done.before, to_revision=done.after)
        _make_archive(settings)
        client = StatusClient(settings.status_service_url)
        try:
            service = Service(_parts(settings, client))
            web = WebServer(make_app(service.reasons, service.render_metrics), settings.http_host, settings.http_port)
            return service.run(web)
        finally:
            client.close()


def _make_archive(settings: Settings) -> None:
    """A first start makes the archive's folder. Once there are entries a missing one is not mounted, and is not made up."""
    if settings.archive_path.exists():
        return
    with reading(settings) as ledger:
        if ledger.last() is None:
            try:
                settings.archive_path.mkdir(mode=0o750, parents=True, exist_ok=True)
            except OSError as error:
                text = f"ARCHIVE_PATH: {settings.archive_path} is not there, and cannot be made: {os.strerror(error.errno or 0)}"
                raise BadSettings("bad-settings", text, errno=error.errno) from error
            logs.get().info("archive.made")


def _source(settings: Settings, ledger_id: str, metrics: Metrics, on_subscribed: Callable[[], None]) -> Source:
    if settings.described_stream is None:
        return PubSub(settings.redis_url, settings.described_channel, metrics, on_subscribed=on_subscribed)
    # The ledger's id stays whatever becomes of the container and the machine, and one process at a time holds a ledger.
    return Stream(settings.redis_url, settings.described_stream, metrics, consumer=ledger_id)


def _parts(settings: Settings, client: StatusClient) -> Parts:
    metrics = Metrics()
    index_bell = threading.Event()

    def appended(entries: list[Entry]) -> None:
        for entry in entries:
            metrics.entries.labels(entry.kind).inc()
        index_bell.set()

    ledger = SqliteLedger(settings.ledger_file, on_append=appended)

    def look_at_what_was_put_off() -> None:
        with ledger.write() as tx:
            tx.make_due(beyond_s=CONFIRM_AFTER[-1] * settings.status_confirm_seconds)

    look_at_what_was_put_off()  # recovery
    archive = FilesystemArchive(settings.archive_path)
    mirror = joined_mirror(settings, ledger, archive)
    uploads = Uploads(settings.uploads_path, ledger_id=ledger.ledger_id)
    outages = Outages(ledger, metrics)
    waiting_for_mirror: list[Callable[[], None]] = []
    replicator = Replicator(
        ledger,
        mirror,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        on_advanced=waiting_for_mirror,
    )
    notifier = Notifier(
        ledger,
        client,
        archive_root=str(settings.archive_path),
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        confirm_s=settings.status_confirm_seconds,
        mirrored=lambda: mirror.position,
    )

    def clock_was_set() -> None:
        placer.begin_grace_anew()
        look_at_what_was_put_off()

    clock_watch = ClockWatch(utc_now, on_set=clock_was_set)

    def place_again() -> None:
        placer.pool.wake()

    remover = Remover(
        ledger,
        uploads,
        archive,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        settle_s=settings.upload_settle_seconds,
        mirrored=lambda: mirror.position,
        on_place_again=place_again,
    )
    placer = Placer(
        ledger,
        uploads,
        archive,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        grace_s=settings.missing_file_grace_seconds,
        on_copied=remover.remember,
        on_recorded=replicator.wake,
        look_at_clock=clock_watch.look,
    )
    waiting_for_mirror += [remover.pool.wake, notifier.pool.wake]

    def handed_over() -> None:
        placer.pool.wake()
        remover.pool.wake()

    reconciler = Reconciler(
        ledger,
        uploads,
        client,
        metrics=metrics,
        clock=utc_now,
        grace_s=settings.reconcile_grace_seconds,
        every_s=settings.reconcile_seconds,
        on_handed_over=handed_over,
    )
    source = _source(settings, ledger.ledger_id, metrics, reconciler.ring)
    intake = Intake(
        ledger,
        source,
        UploadPaths(str(settings.uploads_path), settings.neighbour_uploads_paths),
        metrics=metrics,
        clock=utc_now,
        rejected_per_hour=settings.rejected_per_hour,
        on_described=placer.pool.wake,
        on_rejected=replicator.wake,
        on_recovered=reconciler.ring,
    )
    index = Index(settings.index_file, ledger, workers=Workers.of(settings.ledger_file))
    scrub = Scrub(
        ledger,
        Places.of(settings),
        rate=settings.scrub_rate_mb_s * 1e6,
        metrics=metrics,
        clock=utc_now,
        index_position=lambda: index.position,
    )
    return Parts(
        ledger=ledger,
        archive=archive,
        uploads_root=settings.uploads_path,
        archive_root=settings.archive_path,
        ledger_root=settings.ledger_path,
        source=source,
        intake=intake,
        placer=placer,
        remover=remover,
        notifier=notifier,
        replicator=replicator,
        reconciler=reconciler,
        scrub=scrub,
        index=index,
        index_bell=index_bell,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        clock_watch=clock_watch,
    )
