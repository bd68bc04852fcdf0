"""Settings → a repair."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from storage_ledger.archive.contract import Archive
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import Locked, StorageLedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.findings import Findings
from storage_ledger.operations.repair_headers import Tally, read_again, record_in, studies_read_again, studies_to_read
from storage_ledger.operations.replay.dry_run import DryRunArchive
from storage_ledger.operations.replay.replay import Begin, metadata, studies
from storage_ledger.operations.replay.replay import Tally as MetadataTally
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.wiring.stores import alone, appending, reading


@dataclass(frozen=True, slots=True)
class Asked:
    """Which headers: of this study only, also those that are whole (`every`); `dry_run`: say what would be done."""

    study: str | None = None
    every: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class Report:
    """What came of it; the caller closes `findings`. `trouble`: what ended it early."""

    findings: Findings
    headers: Tally = field(default_factory=Tally)
    metadata: MetadataTally = field(default_factory=MetadataTally)
    trouble: StorageLedgerError | None = None


def headers(settings: Settings, asked: Asked, begin: Begin) -> Report:
    """Read headers again, append what is new, and bring metadata.json up to date; the index follows when `serve` starts.

    Holds `serve.lock`, but for a dry run. Raises `Locked`, and `LedgerUnusable` where ledger and archive do not belong together.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    with ExitStack() as stack:
        if not asked.dry_run:
            stack.enter_context(alone(settings, "repair"))
        ledger = stack.enter_context(reading(settings) if asked.dry_run else appending(settings))
        if asked.study is not None and next(ledger.study(asked.study), None) is None:
            raise StorageLedgerError("study-unknown", "the ledger knows nothing of this study_id")
        archive = FilesystemArchive(settings.archive_path)
        report = Report(Findings())
        try:
            _headers(ledger, DryRunArchive(archive) if asked.dry_run else archive, asked, begin, report)
        except Locked:
            report.findings.close()
            raise
        except StorageLedgerError as error:
            report.trouble = error
        return report


def _headers(ledger: Ledger, archive: Archive, asked: Asked, begin: Begin, report: Report) -> None:
    chosen, count = _chosen(ledger, asked, begin)
    with begin("Headers", count, "studies") as show:
        read_again(
            ledger,
            archive,
            chosen,
            every=asked.every,
            record=_nothing if asked.dry_run else record_in(ledger),
            findings=report.findings,
            tally=report.headers,
            show=show,
        )
    if not asked.dry_run:
        with begin("metadata.json", None, "studies") as show:
            again = studies_read_again(ledger, asked.study)
            metadata(ledger, archive, again, findings=report.findings, tally=report.metadata, show=show)


def _chosen(ledger: Ledger, asked: Asked, begin: Begin) -> tuple[Iterable[str], int]:
    if asked.study is not None:
        return [asked.study], 1
    if asked.every:
        return studies(ledger), ledger.count_studies()
    last = ledger.last()
    position = last.position if last else 0
    with begin("Searching the ledger", position, "entries") as show:
        found = studies_to_read(ledger, position, show)
    return found, len(found)


def _nothing(_: object) -> None:
    """What a dry run records."""
