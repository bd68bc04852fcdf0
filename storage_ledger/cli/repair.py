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
    help="Complete what the ledger knows of archived files.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keep `headers` a command of its own: typer would take the only one for the group itself."""


@app.command("headers", cls=Command)
def headers(
    study: Annotated[str | None, typer.Option("--study", help="Only the files of this study_id.", metavar="ID")] = None,
    every: Annotated[bool, typer.Option("--all", help="Read the headers that are complete again, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing; `serve` may run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read DICOM headers again that the ledger does not have, or has only in part.

    Files are read from the archive and not changed. Where the result differs from what the ledger has, an entry
    `header-read` is appended; metadata.json follows, and so does the index when `serve` starts. Needs `serve` stopped,
    since both write metadata.json. May be interrupted and run again; a second run appends nothing. Ends with 1 when a
    file is missing, changed or cannot be read.
    """
    from contextlib import closing

    from storage_ledger.cli.output import end, print_json_with_problems
    from storage_ledger.cli.progress import progress
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import repair
    from storage_ledger.wiring.repair import RepairPlan

    if study is not None and not valid_study_id(study):
        raise typer.BadParameter("no study_id is like this one")
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
        print("A dry run: nothing was changed.")
    counts = report.headers
    verb = "would be recorded" if plan.dry_run else "recorded"
    print(f"Headers: {counted(counts.looked_at, 'file')} read, {counts.changed:,} {verb}, {counts.left:,} still not complete.")
    if report.metadata.mended:
        print(f"metadata.json: {report.metadata.mended:,} written.")
    print_problems("Not read or not written", report.problems, VERIFY, RETRIES, HEADERS)
