"""Wires `storage-ledger repair` from the settings."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import Locked, StorageLedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.progress import StartProgress
from storage_ledger.operations.repair_headers import HeaderCounts, reread_headers, studies_to_read, studies_with_reread_headers
from storage_ledger.operations.replay.metadata import rewrite_metadata
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.replay.studies import described_studies
from storage_ledger.operations.unresolved_problems import Problems
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.wiring.stores import appending, reading, repair_lock_held


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What to read and do. `study`: only this study; `every`: complete headers as well; `dry_run`: change nothing."""

    study: str | None = None
    every: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class RepairReport:
    """The result; the caller closes `problems`. `error`: the error that ended the repair early."""

    problems: Problems
    headers: HeaderCounts = field(default_factory=HeaderCounts)
    metadata: ReplayCounts = field(default_factory=ReplayCounts)
    error: StorageLedgerError | None = None


def headers(settings: Settings, plan: RepairPlan, begin: StartProgress) -> RepairReport:
    """Re-read headers, append those that differ, and update metadata.json. The index follows when `serve` starts.

    Holds `serve.lock`, except in a dry run: both write metadata.json, and the older version could win.
    Raises `Locked`, and `LedgerUnusable` if ledger and archive do not belong together.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    with ExitStack() as stack:
        if not plan.dry_run:
            stack.enter_context(repair_lock_held(settings, "repair"))
        ledger = stack.enter_context(reading(settings) if plan.dry_run else appending(settings))
        if plan.study is not None and next(ledger.study(plan.study), None) is None:
            raise StorageLedgerError("study-unknown", "the ledger has no entry for this study_id")
        archive = FilesystemArchive(settings.archive_path)
        report = RepairReport(Problems())
        try:
            _headers(ledger, archive, plan, begin, report)
        except Locked:
            report.problems.close()
            raise
        except StorageLedgerError as error:
            report.error = error
        return report


def _headers(ledger: Ledger, archive: FilesystemArchive, plan: RepairPlan, begin: StartProgress, report: RepairReport) -> None:
    chosen, count = _chosen(ledger, plan, begin)
    with begin("Headers", count, "studies") as show:
        reread_headers(
            ledger,
            archive,
            chosen,
            every=plan.every,
            dry_run=plan.dry_run,
            problems=report.problems,
            counts=report.headers,
            show=show,
        )
    if not plan.dry_run:
        with begin("metadata.json", None, "studies") as show:
            again = studies_with_reread_headers(ledger, plan.study)
            rewrite_metadata(ledger, archive, archive, again, problems=report.problems, counts=report.metadata, show=show)


def _chosen(ledger: Ledger, plan: RepairPlan, begin: StartProgress) -> tuple[Iterable[str], int]:
    if plan.study is not None:
        return [plan.study], 1
    if plan.every:
        return described_studies(ledger), ledger.count_studies()
    last = ledger.last()
    position = last.position if last else 0
    with begin("Searching the ledger", position, "entries") as show:
        found = studies_to_read(ledger, position, show)
    return found, len(found)
