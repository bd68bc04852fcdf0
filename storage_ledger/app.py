"""Settings → wired objects: the only place that knows the concrete engines."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_ledger import backup, logs
from storage_ledger.adopt import Adopted, Adoption, Asked, Noted
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.core.entries import Entry, Kind, NewEntry
from storage_ledger.core.layout import UploadPaths
from storage_ledger.errors import BackupError, LedgerBusy, LedgerError, LedgerUnusable, Locked, Retryable, StorageLedgerError
from storage_ledger.findings import Findings
from storage_ledger.index.sqlite import Index
from storage_ledger.intake import Intake
from storage_ledger.ledger import lock
from storage_ledger.ledger.migrate import make_folder, migrate, require_owner, require_writable
from storage_ledger.ledger.mirror import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger, utc_now
from storage_ledger.looking import LookingArchive, LookingStatuses
from storage_ledger.metrics import Metrics
from storage_ledger.mirroring import Mirroring
from storage_ledger.notifier import CONFIRM_AFTER, Notifier
from storage_ledger.outages import Outages
from storage_ledger.projector import Projector
from storage_ledger.putting_back import put_back, record_in
from storage_ledger.reconcile import Reconciler, Sweep
from storage_ledger.replay import Begin, Order, Pace, Part, Report, Tally, metadata, record_told, statuses, studies
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

WRITE_INTO_THE_ARCHIVE = frozenset({Part.MIRROR, Part.FILES, Part.METADATA})
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


def replay(settings: Settings, order: Order, begin: Begin) -> Report:
    """Make again from the ledger what `order` names. The report says what came of each part; the caller closes its findings.

    Raises `Locked`, and `LedgerUnusable` where ledger and archive do not belong together: then nothing has been done.
    """
    os.umask(UMASK)
    logs.configure(settings.log_level, environment=settings.environment)
    if not order.dry_run:
        require_writable(settings.ledger_file)
    with ExitStack() as stack:
        if order.parts & WRITE_INTO_THE_ARCHIVE and not order.dry_run:
            stack.enter_context(alone(settings, "replay"))
        ledger = stack.enter_context(reading(settings))
        last = ledger.last()
        if order.study is not None and not ledger.study(order.study):
            raise StorageLedgerError("study-unknown", "the ledger knows nothing of this study_id")
        archive = FilesystemArchive(settings.archive_path)
        mirror = Mirror(
            settings.archive_path,
            settings.mirror_lock_file,
            ledger,
            on_recognised=lambda root: archive.recognise(root.device, root.inode),
        )
        mirror_anew = order.parts != {Part.INDEX} and _is_to_be_made(mirror, order)
        report = Report(Findings(), last.position if last else 0, {part: Tally() for part in Part if part in order.parts})
        _Replaying(settings, order, begin, ledger, archive, mirror, report).run(mirror_anew=mirror_anew)
        return report


def _is_to_be_made(mirror: Mirror, order: Order) -> bool:
    """Whether the mirror is: it was asked for, or there is none. Raises `LedgerUnusable` where it is another's, ahead, at odds."""
    try:
        if not order.dry_run:
            mirror.begin()
        mirror.check()
    except LedgerUnusable as error:
        if order.mirror_anew or (error.code == "mirror-missing" and Part.MIRROR in order.parts):
            return True
        raise
    except Retryable:
        if order.parts & WRITE_INTO_THE_ARCHIVE:
            raise
    return order.mirror_anew


@dataclass(frozen=True, slots=True)
class _Replaying:
    """The parts of a replay, each with its collaborators: the real ones, or in a dry run those that only look."""

    settings: Settings
    order: Order
    begin: Begin
    ledger: SqliteLedger
    archive: FilesystemArchive
    real_mirror: Mirror
    report: Report

    def run(self, *, mirror_anew: bool) -> None:
        """All parts in order; what ends it early is in the report. What was appended is in the mirror, too, where it can be."""
        parts = {
            Part.MIRROR: self.mirror if mirror_anew else _nothing,
            Part.FILES: self.files,
            Part.METADATA: self.metadata,
            Part.INDEX: self.index,
            Part.STATUSES: self.statuses,
        }
        try:
            for part, tally in self.report.tallies.items():
                parts[part](tally)
        except Locked:
            self.report.findings.close()
            raise
        except StorageLedgerError as error:
            self.report.trouble = error
        finally:
            if not self.order.dry_run and self.order.parts != {Part.INDEX}:
                with suppress(Retryable, LedgerError):  # `serve` follows, or says why it cannot
                    self.real_mirror.catch_up()

    def mirror(self, tally: Tally) -> None:
        with self.begin("Mirroring", self.report.position, "entries") as show:
            done = self.report.position if self.order.dry_run else self.real_mirror.rewrite(show)
        tally.looked_at = tally.mended = done

    def files(self, tally: Tally) -> None:
        archive = LookingArchive(self.archive) if self.order.dry_run else self.archive
        put_back(
            self.ledger,
            archive,
            self._chosen(),
            self.order.sources,
            record=_nothing if self.order.dry_run else record_in(self.ledger, archive),
            findings=self.report.findings,
            tally=tally,
            studies=self._count(),
            begin=self.begin,
        )

    def metadata(self, tally: Tally) -> None:
        archive = LookingArchive(self.archive) if self.order.dry_run else self.archive
        with self.begin("metadata.json", self._count(), "studies") as show:
            metadata(self.ledger, archive, self._chosen(), findings=self.report.findings, tally=tally, show=show)

    def index(self, tally: Tally) -> None:
        if self.order.dry_run:
            tally.looked_at = tally.mended = self.report.position
            return
        index = Index(self.settings.index_file, self.ledger, command="replay")
        try:
            with self.begin("Index", self.report.position, "entries") as show:
                tally.looked_at = tally.mended = index.remake(show)
        finally:
            index.close()

    def statuses(self, tally: Tally) -> None:
        client = StatusClient(self.settings.status_service_url)
        try:
            metrics = Metrics()
            notifier = Notifier(
                self.ledger,
                LookingStatuses(client) if self.order.dry_run else client,
                archive_root=str(self.settings.archive_path),
                outages=Outages(self.ledger, metrics),
                metrics=metrics,
                clock=utc_now,
                confirm_s=self.settings.status_confirm_seconds,
            )
            with self.begin("Statuses", self._count(), "studies") as show:
                statuses(
                    self.ledger,
                    notifier,
                    self._chosen(),
                    rejected=self.order.study is None,
                    record=_nothing if self.order.dry_run else record_told(self.ledger, notifier),
                    pace=Pace(self.order.rate),
                    findings=self.report.findings,
                    tally=tally,
                    show=show,
                )
        finally:
            client.close()

    def _chosen(self) -> Iterator[str]:
        return studies(self.ledger, self.order.study)

    def _count(self) -> int:
        return 1 if self.order.study is not None else self.ledger.count_studies()


def _nothing(_: object) -> None:
    """What a dry run records, for one."""


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
    projector = Projector(
        ledger,
        uploads,
        archive,
        outages=outages,
        metrics=metrics,
        clock=utc_now,
        grace_s=settings.missing_file_grace_seconds,
        mirrored=lambda: mirror.position,
        on_recorded=mirroring.wake,
    )
    waiting_for_mirror += [projector.remove_lane.wake, notifier.lane.wake]

    def handed_over() -> None:
        projector.place_lane.wake()
        projector.remove_lane.wake()

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
        on_described=projector.place_lane.wake,
        on_rejected=mirroring.wake,
        on_recovered=reconciler.ring,
    )
    index = Index(settings.index_file, ledger)
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
