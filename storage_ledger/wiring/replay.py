"""Settings → a wired replay: each part with its collaborators, the real ones or those that only look."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import faults
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import LedgerError, LedgerUnusable, Locked, Retryable, StorageLedgerError
from storage_ledger.index.follower import Index
from storage_ledger.index.rebuild.partitions import Workers
from storage_ledger.ledger.migrate import require_writable
from storage_ledger.ledger.mirror.writer import Mirror, entries
from storage_ledger.ledger.sqlite import SqliteLedger, utc_now
from storage_ledger.operations.findings import Finding, Findings
from storage_ledger.operations.replay.dry_run import DryRunArchive, DryRunStatuses
from storage_ledger.operations.replay.files import put_back, record_in
from storage_ledger.operations.replay.replay import (
    AWAY_S,
    Begin,
    Order,
    Pace,
    Part,
    Patience,
    Report,
    Tally,
    metadata,
    record_told,
    statuses,
    studies,
)
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.outages import Outages
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics
from storage_ledger.wiring.stores import UMASK, alone, reading

TOLD_EVERY = 1_000
WRITE_INTO_THE_ARCHIVE = frozenset({Part.MIRROR, Part.FILES, Part.METADATA})


def replay(settings: Settings, order: Order, begin: Begin, say: Callable[[str], None]) -> Report:
    """Make again from the ledger what `order` names. The report says what came of each part; the caller closes its findings.

    `say` gets what a person who waits should know, one line each.
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
        if order.study is not None and next(ledger.study(order.study), None) is None:
            raise StorageLedgerError("study-unknown", "the ledger knows nothing of this study_id")
        archive = FilesystemArchive(settings.archive_path)
        mirror = Mirror(
            settings.archive_path,
            settings.mirror_lock_file,
            ledger,
            on_recognised=lambda root: archive.recognise(root.device, root.inode),
        )
        mirror_anew = order.parts != {Part.INDEX} and _is_to_be_made(mirror, order, say)
        report = Report(Findings(), last.position if last else 0, {part: Tally() for part in Part if part in order.parts})
        _Replaying(settings, order, begin, say, ledger, archive, mirror, report).run(mirror_anew=mirror_anew)
        return report


def _is_to_be_made(mirror: Mirror, order: Order, say: Callable[[str], None]) -> bool:
    """Whether the mirror is: it was asked for, or there is none. Raises `LedgerUnusable` where it is another's, ahead, at odds."""
    try:
        if not order.dry_run:
            mirror.begin()
        mirror.check()
    except LedgerUnusable as error:
        if error.code == "mirror-missing" and Part.MIRROR in order.parts:
            return True
        if order.mirror_anew:
            _say_set_aside(error, order, say)
            return True
        raise
    except Retryable:
        if order.parts & WRITE_INTO_THE_ARCHIVE:
            raise
    return order.mirror_anew


def _say_set_aside(why: LedgerUnusable, order: Order, say: Callable[[str], None]) -> None:
    say(f"{why.code}: {why.detail}. The old mirror {'would be' if order.dry_run else 'is'} set aside in .ledger/damaged/")


@dataclass(frozen=True, slots=True)
class _Replaying:
    """The parts of a replay, each with its collaborators: the real ones, or in a dry run those that only look."""

    settings: Settings
    order: Order
    begin: Begin
    say: Callable[[str], None]
    ledger: SqliteLedger
    archive: FilesystemArchive
    real_mirror: Mirror
    report: Report

    def run(self, *, mirror_anew: bool) -> None:
        """All parts in order; what ends it early is in the report. What was appended is in the mirror, too, where it can be."""
        parts = {
            Part.MIRROR: self.mirror if mirror_anew else self.mirror_if_damaged,
            Part.FILES: self.files,
            Part.METADATA: self.metadata,
            Part.INDEX: self.index,
            Part.STATUSES: self.statuses,
        }
        try:
            for part, tally in self.report.tallies.items():
                self.report.ended_in = part
                parts[part](tally)
            self.report.ended_in = None
        except Locked:
            self.report.findings.close()
            raise
        except StorageLedgerError as error:
            self.report.trouble = error
        finally:
            if self.order.parts != {Part.INDEX}:
                self._catch_up()

    def _catch_up(self) -> None:
        if not self.order.dry_run:
            with suppress(Retryable, LedgerError):  # `serve` follows, or says why it cannot
                self.real_mirror.catch_up()

    def mirror(self, tally: Tally) -> None:
        with self.begin("Mirroring", self.report.position, "entries") as show:
            done = self.report.position if self.order.dry_run else self.real_mirror.rewrite(show)
        tally.looked_at = tally.mended = done

    def mirror_if_damaged(self, tally: Tally) -> None:
        """Read all of it. Where it is damaged it is made anew, unless the ledger is damaged, too: then it may be the only whole copy."""
        self._catch_up()  # which mends the last segment, of what ledger and mirror have
        damage = self._damage(tally)
        if damage is None:
            return
        broken = next((each.position for each in self.ledger.scan(0, self.report.position) if faults(each)), None)
        if broken is None:
            _say_set_aside(damage, self.order, self.say)
            self.mirror(tally)
        else:
            text = f"and the ledger's entry at position {broken} is damaged, too: `storage-ledger verify` tells which of them has what"
            self.report.findings.add(Finding(damage.code, path=LEDGER_FOLDER, position=broken, detail=f"{damage.detail}; {text}"))
            tally.left = 1

    def _damage(self, tally: Tally) -> LedgerUnusable | None:
        """What is wrong with the mirror, which is this ledger's."""
        with self.begin("Reading the mirror", self.report.position, "entries") as show:
            try:
                for tally.looked_at, _ in enumerate(entries(self.settings.archive_path, self.ledger.ledger_id), 1):
                    if tally.looked_at % TOLD_EVERY == 0:
                        show(tally.looked_at)
            except LedgerUnusable as error:
                if error.code == "mirror-damaged":
                    return error
                raise
        return None

    def files(self, tally: Tally) -> None:
        archive = DryRunArchive(self.archive) if self.order.dry_run else self.archive
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
        archive = DryRunArchive(self.archive) if self.order.dry_run else self.archive
        with self.begin("metadata.json", self._count(), "studies") as show:
            metadata(self.ledger, archive, self._chosen(), findings=self.report.findings, tally=tally, show=show)

    def index(self, tally: Tally) -> None:
        if self.order.dry_run:
            tally.looked_at = tally.mended = self.report.position
            return
        index = Index(self.settings.index_file, self.ledger, command="replay", workers=Workers.of(self.settings.ledger_file))
        try:
            with ExitStack() as shown:
                show = shown.enter_context(self.begin("Index", self.report.position, "entries"))

                def made(done: int, of: int) -> None:
                    nonlocal show
                    if done == 0:  # all entries are in; the rest takes a quarter of the time
                        shown.close()
                        show = shown.enter_context(self.begin("Indexes and search", of, "made"))
                    show(done)

                tally.looked_at = tally.mended = index.remake(show, on_made=made, waits=self._waits_for_another)
        finally:
            index.close()

    def statuses(self, tally: Tally) -> None:
        client = StatusClient(self.settings.status_service_url)
        try:
            metrics = Metrics()
            notifier = Notifier(
                self.ledger,
                DryRunStatuses(client) if self.order.dry_run else client,
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
                    patience=Patience(say=self._waits),
                    findings=self.report.findings,
                    tally=tally,
                    show=show,
                )
        except Retryable as error:
            tally.left += max(0, self._count() - tally.looked_at)
            text = f"{error.detail}. When it is back: `storage-ledger replay --statuses`"
            raise Retryable(error.code, text, errno=error.errno, shared=error.shared) from error
        finally:
            client.close()

    def _waits_for_another(self, holder: str) -> None:
        self.say(f"the index is being made anew by {holder} just now: waiting until that is done")

    def _waits(self, error: Retryable) -> None:
        self.say(f"the Status Service does not answer ({error.detail}): waiting for {AWAY_S:.0f} s")

    def _chosen(self) -> Iterator[str]:
        return studies(self.ledger, self.order.study)

    def _count(self) -> int:
        return 1 if self.order.study is not None else self.ledger.count_studies()


def _nothing(_: object) -> None:
    """What a dry run records, for one."""
