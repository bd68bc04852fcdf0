"""`storage-ledger repair headers`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from storage_ledger.cli.help_format import Command, Group

if TYPE_CHECKING:
    from storage_ledger.wiring.repair import RepairPlan, RepairReport

app = typer.Typer(
    cls=Group,
    help="Repair what the ledger records about archived files.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keep `headers` a subcommand: typer would turn a group with one command into that command."""


@app.command("headers", cls=Command)
def headers(
    study: Annotated[str | None, typer.Option("--study", help="Only files of this study.", metavar="STUDY_ID")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also read headers that are already complete.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing. `serve` may be running.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Re-read DICOM headers that are missing or incomplete in the ledger.

    For files that an earlier version could not read, or that were damaged and have been restored. Where a header differs
    from the ledger, a `header-read` entry is appended and metadata.json is updated; the index follows when `serve` starts.
    Archived files are not changed.

    Stop `serve` first. May be interrupted and run again.

    Exit code 1 if a file is missing, changed or cannot be read: it is listed. 2 if the command ended early.
    """
    from contextlib import closing

    from storage_ledger.cli.output import end, print_json_with_problems
    from storage_ledger.cli.progress import progress
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import repair
    from storage_ledger.wiring.repair import RepairPlan

    if study is not None and not valid_study_id(study):
        raise typer.BadParameter("not a valid study_id")
    plan = RepairPlan(study=study, every=every, dry_run=dry_run)
    report = repair.headers(Settings.load(), plan, progress)
    with closing(report.problems):
        if as_json:
            document = {"dry_run": dry_run, "headers": asdict(report.headers), "metadata_written": report.metadata.mended}
            print_json_with_problems(document, report.error, report.problems)
        else:
            _print(report, plan)
        end(report.error, report.problems)


def _print(report: RepairReport, plan: RepairPlan) -> None:
    from storage_ledger.cli.output import counted, print_problems
    from storage_ledger.domain.error_catalogue.flags_and_headers import HEADERS
    from storage_ledger.domain.error_catalogue.retries import RETRIES
    from storage_ledger.domain.error_catalogue.verify import VERIFY

    if plan.dry_run:
        print("Dry run: nothing was changed.")
    counts = report.headers
    verb = "would be recorded" if plan.dry_run else "recorded"
    print(f"Headers: {counted(counts.looked_at, 'file')} read, {counts.changed:,} {verb}, {counts.left:,} still incomplete.")
    if report.metadata.mended:
        print(f"metadata.json: {report.metadata.mended:,} written.")
    print_problems("Could not be read or written", report.problems, VERIFY, RETRIES, HEADERS)
