"""Wires `storage-ledger replay` from the settings: each part gets its real collaborators, or those of a dry run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from storage_ledger.archive.contract import ArchiveRepair
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import Locked, Retryable, StorageLedgerError
from storage_ledger.index.follower import Index
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.operations.progress import StartProgress
from storage_ledger.operations.replay import mirror as mirror_part
from storage_ledger.operations.replay.dry_run import DryRunRepair, DryRunStatuses
from storage_ledger.operations.replay.files import AskedBy, put_back
from storage_ledger.operations.replay.metadata import rewrite_metadata
from storage_ledger.operations.replay.report import ReplayCounts, ReplayPart, ReplayPlan, ReplayReport
from storage_ledger.operations.replay.statuses import resend_statuses
from storage_ledger.operations.replay.studies import described_studies
from storage_ledger.operations.replay.time_budget import AWAY_S, RetryBudget
from storage_ledger.operations.unresolved_problems import Problems
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.system.files import FolderId
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.rate_limit import Pace
from storage_ledger.wiring.ledgers import rebuild_processes, require_writable
from storage_ledger.wiring.stores import UMASK, reading, repair_lock_held

WRITE_INTO_THE_ARCHIVE = frozenset({ReplayPart.MIRROR, ReplayPart.FILES, ReplayPart.METADATA})
NEED_SERVE_STOPPED = frozenset({ReplayPart.MIRROR, ReplayPart.METADATA})
"""`serve` writes these itself, and the older version could win. A file that is put back has only one right content."""


def replay(settings: Settings, plan: ReplayPlan, begin: StartProgress, say: Callable[[str], None]) -> ReplayReport:
    """Rebuild the plan's parts from the ledger. The report has the result of each part; the caller closes its problems.

    `say` gets messages for a user who is waiting, one line each. Raises `Locked`, and `LedgerUnusable` if ledger and archive do
    not belong together; nothing has been changed then.
    """
    os.umask(UMASK)
    logs.configure(settings.log_level, environment=settings.environment)
    if not plan.dry_run:
        require_writable(settings)
    with ExitStack() as stack:
        if plan.parts & WRITE_INTO_THE_ARCHIVE and not plan.dry_run:
            beside_serve = not plan.parts & NEED_SERVE_STOPPED
            stack.enter_context(repair_lock_held(settings, "replay", beside_serve=beside_serve))
        ledger = stack.enter_context(reading(settings))
        last = ledger.last()
        if plan.study is not None and next(ledger.study(plan.study), None) is None:
            raise StorageLedgerError("study-unknown", "the ledger has no entry for this study_id")
        archive = FilesystemArchive(settings.archive_path)
        mirror = Mirror(
            settings.archive_path,
            settings.mirror_lock_file,
            ledger,
            on_recognised=lambda root: archive.recognise(FolderId(root.device, root.inode)),
        )
        rewrite_mirror = plan.parts != {ReplayPart.INDEX} and mirror_part.must_be_rewritten(mirror, plan, say)
        counts = {part: ReplayCounts() for part in ReplayPart if part in plan.parts}
        report = ReplayReport(Problems(), last.position if last else 0, counts)
        _Replay(settings, plan, begin, say, ledger, archive, mirror, report).run(rewrite_mirror=rewrite_mirror)
        return report


@dataclass(frozen=True, slots=True)
class _Replay:
    """Calls each part with its collaborators: the real ones, or for a dry run ones that change nothing."""

    settings: Settings
    plan: ReplayPlan
    begin: StartProgress
    say: Callable[[str], None]
    ledger: Ledger
    archive: FilesystemArchive
    mirror: Mirror
    report: ReplayReport

    def run(self, *, rewrite_mirror: bool) -> None:
        """Run all parts in order; the report gets an error that ends them early. New entries are mirrored, if possible."""
        parts = {
            ReplayPart.MIRROR: self._rewrite_mirror if rewrite_mirror else self._check_mirror,
            ReplayPart.FILES: self._files,
            ReplayPart.METADATA: self._metadata,
            ReplayPart.INDEX: self._index,
            ReplayPart.STATUSES: self._statuses,
        }
        try:
            for part, counts in self.report.counts.items():
                self.report.ended_in = part
                parts[part](counts)
            self.report.ended_in = None
        except Locked:
            self.report.problems.close()
            raise
        except StorageLedgerError as error:
            self.report.error = error
        finally:
            if self.plan.parts != {ReplayPart.INDEX} and not self.plan.dry_run:
                mirror_part.catch_up(self.mirror)

    def _rewrite_mirror(self, counts: ReplayCounts) -> None:
        mirror_part.rewrite(self.mirror, self.report.position, self.plan, counts=counts, begin=self.begin)

    def _check_mirror(self, counts: ReplayCounts) -> None:
        mirror_part.rewrite_if_damaged(
            self.mirror,
            self.ledger,
            self.settings.archive_path,
            self.report.position,
            self.plan,
            problems=self.report.problems,
            counts=counts,
            begin=self.begin,
            say=self.say,
        )

    def _files(self, counts: ReplayCounts) -> None:
        put_back(
            self.ledger,
            self.archive,
            self._repair(),
            self._studies(),
            self.plan.sources,
            dry_run=self.plan.dry_run,
            problems=self.report.problems,
            counts=counts,
            studies_count=self._count(),
            begin=self.begin,
            asked=AskedBy(self.plan.by, self.plan.reason),
        )

    def _metadata(self, counts: ReplayCounts) -> None:
        with self.begin("metadata.json", self._count(), "studies") as show:
            rewrite_metadata(
                self.ledger, self.archive, self._repair(), self._studies(), problems=self.report.problems, counts=counts, show=show
            )

    def _index(self, counts: ReplayCounts) -> None:
        if self.plan.dry_run:
            counts.looked_at = counts.mended = self.report.position
            return
        index = Index(self.settings.index_file, self.ledger, command="replay", processes=rebuild_processes(self.settings))
        try:
            with ExitStack() as shown:
                show = shown.enter_context(self.begin("Index", self.report.position, "entries"))

                def made(done: int, of: int) -> None:
                    nonlocal show
                    if done == 0:  # all entries are in; the rest takes a quarter of the time
                        shown.close()
                        show = shown.enter_context(self.begin("Indexes and search", of, "made"))
                    show(done)

                counts.looked_at = counts.mended = index.rebuild(show, on_indexed=made, waits=self._report_waiting_for_index)
        finally:
            index.close()

    def _statuses(self, counts: ReplayCounts) -> None:
        client = StatusClient(self.settings.status_service_url)
        try:
            metrics = Metrics()
            notifier = Notifier(
                self.ledger,
                DryRunStatuses(client) if self.plan.dry_run else client,
                archive_root=str(self.settings.archive_path),
                metrics=metrics,
                clock=utc_now,
                confirm_s=self.settings.status_confirm_seconds,
            )
            with self.begin("Statuses", self._count(), "studies") as show:
                resend_statuses(
                    self.ledger,
                    notifier,
                    self._studies(),
                    rejected=self.plan.study is None,
                    dry_run=self.plan.dry_run,
                    pace=Pace(self.plan.rate, burst_s=1 / self.plan.rate),
                    budget=RetryBudget(say=self._report_waiting_for_status_service),
                    problems=self.report.problems,
                    counts=counts,
                    show=show,
                )
        except Retryable as error:
            counts.left += max(0, self._count() - counts.looked_at)
            text = f"{error.detail}. When it is back: `storage-ledger replay --statuses`"
            raise Retryable(error.code, text, errno=error.errno, shared=error.shared) from error
        finally:
            client.close()

    def _repair(self) -> ArchiveRepair:
        return DryRunRepair() if self.plan.dry_run else self.archive

    def _studies(self) -> Iterator[str]:
        return described_studies(self.ledger, self.plan.study)

    def _count(self) -> int:
        return 1 if self.plan.study is not None else self.ledger.count_studies()

    def _report_waiting_for_index(self, holder: str) -> None:
        self.say(f"{holder} is rebuilding the index: waiting for it to finish")

    def _report_waiting_for_status_service(self, error: Retryable) -> None:
        self.say(f"the Status Service does not answer ({error.detail}): waiting up to {AWAY_S:.0f} s")
