"""Settings → wired objects: with `app_replay` the only place that knows the concrete engines."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from storage_ledger import backup, logs
from storage_ledger.adopt import Adopted, Adoption, Asked, Noted
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.core.entries import Entry, Kind, NewEntry
from storage_ledger.core.layout import UploadPaths
from storage_ledger.errors import BackupError, LedgerBusy, LedgerUnusable, Retryable
from storage_ledger.index.rebuild import Workers
from storage_ledger.index.sqlite import Index
from storage_ledger.intake import Intake
from storage_ledger.ledger import lock
from storage_ledger.ledger.migrate import make_folder, migrate, require_owner, require_writable
from storage_ledger.ledger.mirror import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger, utc_now
from storage_ledger.metrics import Metrics
from storage_ledger.mirroring import Mirroring
from storage_ledger.notifier import CONFIRM_AFTER, Notifier
from storage_ledger.outages import Outages
from storage_ledger.projector import Projector
from storage_ledger.reconcile import Reconciler, Sweep
from storage_ledger.remover import Remover
from storage_ledger.service import Parts, Service
from storage_ledger.settings import Settings
from storage_ledger.sources.contract import Source
from storage_ledger.sources.pubsub import PubSub
from storage_ledger.sources.stream import Stream
from storage_ledger.status import StatusClient
from storage_ledger.verify.chosen import Options
from storage_ledger.verify.run import Places, Progress, Verification, Verified
from storage_ledger.verify.scrub import Scrub
from storage_ledger.web import WebServer, make_app

UMASK = 0o027  # nothing that this process makes is for everybody: patients' data


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
            settings.archive_path.mkdir(mode=0o750, parents=True, exist_ok=True)
            logs.get().info("archive.made")


@contextmanager
def reading(settings: Settings) -> Iterator[SqliteLedger]:
    """The ledger, for a command that looks at it or appends beside the service."""
    ledger = SqliteLedger(settings.ledger_file)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def appending(settings: Settings) -> Iterator[SqliteLedger]:
    """The ledger, for a command that adds a person's word to it; `serve` may run meanwhile.

    Raises `LedgerUnusable`, before anything is opened, for a user who could not write: what SQLite puts beside the file
    would be that user's, and would lock the service out.
    """
    require_writable(settings.ledger_file)
    with reading(settings) as ledger, _mirrored(settings, ledger):
        yield ledger


@contextmanager
def _mirrored(settings: Settings, ledger: SqliteLedger) -> Iterator[None]:
    """Around a command that appends: the mirror is this ledger's, and has what was appended. Raises `LedgerUnusable`.

    Where the archive cannot be reached the entries stand in the ledger alone, until `serve` follows.
    """
    mirror = mirror_of(settings, ledger)
    mirror.begin()
    with suppress(Retryable):
        mirror.check()
    try:
        yield
    finally:
        with suppress(Retryable, LedgerBusy):
            mirror.catch_up()


def reconcile(settings: Settings, on_progress: Callable[[Sweep], None]) -> Sweep:
    """One sweep over all of uploads, whether `serve` runs or not: what it hands over is the service's to do."""
    os.umask(UMASK)
    logs.configure(settings.log_level, environment=settings.environment)
    client = StatusClient(settings.status_service_url)
    try:
        with reading(settings) as ledger, _mirrored(settings, ledger):
            reconciler = Reconciler(
                ledger,
                Uploads(settings.uploads_path),
                client,
                metrics=Metrics(),
                clock=utc_now,
                grace_s=settings.reconcile_grace_seconds,
            )
            return reconciler.sweep(threading.Event(), in_vain=math.inf, on_progress=on_progress)
    finally:
        client.close()


def back_up(settings: Settings, dest: Path, on_progress: backup.Progress) -> tuple[Path, backup.Manifest]:
    """A new backup of the ledger in `dest`, whether `serve` runs or not. Raises `BackupError`, `LedgerError`, `Locked`."""
    os.umask(UMASK)
    require_writable(settings.ledger_file)
    real = Path(os.path.realpath(dest))
    for name, path in (
        ("UPLOADS_PATH", settings.uploads_path),
        ("ARCHIVE_PATH", settings.archive_path),
        ("LEDGER_PATH", settings.ledger_path),
    ):
        if real.is_relative_to(os.path.realpath(path)):
            raise BackupError("backup-folder", f"{dest} lies in {name}: a backup belongs somewhere else, best on another disk")
    return backup.back_up(settings.ledger_file, real, now=utc_now(), on_progress=on_progress)


def adopt(
    settings: Settings, asked: Asked, *, on_progress: Callable[[int], None], on_noted: Callable[[Noted, bool], None] = lambda _, __: None
) -> Adopted:
    """Take the archive into the ledger, which is made if there is none; holds `serve.lock`. A dry run looks only.

    Raises `Locked`, `LedgerUnusable`, `Retryable`.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    archive = FilesystemArchive(settings.archive_path)
    if asked.dry_run:
        with reading(settings) if settings.ledger_file.exists() else nullcontext() as ledger:
            return Adoption(ledger, archive, asked, clock=utc_now, on_progress=on_progress, on_noted=on_noted).run()
    with alone(settings, "adopt"):
        archive.settle(())  # before a ledger is made for an archive that is not there
        migrate(settings.ledger_file)
        with reading(settings) as ledger:
            mirror = _mirror(settings, ledger, archive)

            def follow() -> None:
                with suppress(Retryable, LedgerBusy):  # `serve` brings it up before anything is done because of these entries
                    mirror.catch_up()

            adoption = Adoption(ledger, archive, asked, clock=utc_now, on_progress=on_progress, on_committed=follow, on_noted=on_noted)
            try:
                return adoption.run()
            finally:
                follow()  # an earlier run may have been killed before it did


def verify(
    settings: Settings,
    options: Options,
    *,
    record: bool,
    stop: threading.Event,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Verified:
    """Look whether everything is as the ledger says, beside `serve` or without it; with `record` it becomes `verified` entries.

    Ends soon after `stop` is set, and keeps what was seen until then. Raises `LedgerUnusable`.
    """
    os.umask(UMASK)
    logs.configure("WARNING", environment=settings.environment)  # that an index is made to compare with is nobody's news
    if record:
        require_owner(settings.ledger_file)

    def append(payload: dict[str, Any]) -> int:
        with appending(settings) as ledger, ledger.write() as tx:
            return tx.append(NewEntry(Kind.VERIFIED, payload)).position

    return Verification(
        _places(settings),
        options,
        clock=utc_now,
        stopped=stop.is_set,
        wait=stop.wait,
        record=append if record else None,
        on_progress=on_progress,
    ).run()


def _places(settings: Settings) -> Places:
    return Places(settings.ledger_file, settings.index_file, settings.archive_path, lambda: lock.is_held(settings.lock_file))


@contextmanager
def alone(settings: Settings, command: str) -> Iterator[None]:
    """Hold `serve.lock`, for a command that writes what `serve` writes. Raises `Locked`."""
    os.umask(UMASK)
    make_folder(settings.ledger_path)
    with lock.held(settings.lock_file, command):
        yield


def mirror_of(settings: Settings, ledger: SqliteLedger) -> Mirror:
    """The mirror, for a command; nothing is looked at yet."""
    return Mirror(settings.archive_path, settings.mirror_lock_file, ledger)


def _mirror(settings: Settings, ledger: SqliteLedger, archive: FilesystemArchive) -> Mirror:
    """The mirror, seen to be this ledger's. Raises `LedgerUnusable` where it is another's, ahead, at odds, or missing."""
    mirror = Mirror(
        settings.archive_path,
        settings.mirror_lock_file,
        ledger,
        on_recognised=lambda root: archive.recognise(root.device, root.inode),
    )
    mirror.begin()
    try:
        mirror.check()
    except Retryable as error:
        if error.code == "archive-missing":  # not mounted, and we know it before anything is done
            raise LedgerUnusable("mirror-missing", f"{error.detail}. Is the archive's volume mounted?", errno=error.errno) from error
        logs.get().error("mirror.failed", code=error.code, errno=error.errno)  # an outage: it goes on when the volume does
    return mirror


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
    with ledger.write() as tx:  # recovery: whatever was put off is looked at now
        tx.make_due(beyond_s=CONFIRM_AFTER[-1] * settings.status_confirm_seconds)
    archive = FilesystemArchive(settings.archive_path)
    mirror = _mirror(settings, ledger, archive)
    uploads = Uploads(settings.uploads_path)
    outages = Outages(ledger, metrics)
    waiting_for_mirror: list[Callable[[], None]] = []
    mirroring = Mirroring(
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

    def place_again() -> None:
        projector.lane.wake()

    remover = Remover(
        ledger,
        uploads,
        archive,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        mirrored=lambda: mirror.position,
        on_place_again=place_again,
    )
    projector = Projector(
        ledger,
        uploads,
        archive,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        grace_s=settings.missing_file_grace_seconds,
        on_copied=remover.remember,
        on_recorded=mirroring.wake,
    )
    waiting_for_mirror += [remover.lane.wake, notifier.lane.wake]

    def handed_over() -> None:
        projector.lane.wake()
        remover.lane.wake()

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
        on_described=projector.lane.wake,
        on_rejected=mirroring.wake,
        on_recovered=reconciler.ring,
    )
    index = Index(settings.index_file, ledger, workers=Workers.of(settings.ledger_file))
    scrub = Scrub(
        ledger,
        _places(settings),
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
        projector=projector,
        remover=remover,
        notifier=notifier,
        mirroring=mirroring,
        reconciler=reconciler,
        scrub=scrub,
        index=index,
        index_bell=index_bell,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
    )
