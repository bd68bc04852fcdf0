"""`storage-ledger repair index | files | metadata | statuses | mirror | headers`. All but `headers` are parts of `replay`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from storage_ledger.cli.help_format import Command, Group
from storage_ledger.cli.replay import replay

if TYPE_CHECKING:
    from storage_ledger.wiring.repair import RepairPlan, RepairReport

app = typer.Typer(
    cls=Group,
    help="Repair one part of the archive from the ledger; `replay` repairs several at once.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_Study = Annotated[str | None, typer.Option("--study", help="Only this study.", metavar="STUDY_ID")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing. `serve` may be running.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("index", cls=Command)
def index(dry_run: _DryRun = False, as_json: _Json = False) -> None:
    """Rebuild the index, which pages and searches read, from the ledger.

    `serve` and `browse` may be running; they use the old index until the new one is complete. The same as `replay --index`.
    """
    replay(index=True, dry_run=dry_run, as_json=as_json)


@app.command("files", cls=Command)
def files(
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--source",
            help="Search this folder and its subfolders for copies, whatever their names. Can be repeated.",
            metavar="DIR",
            exists=True,
            file_okay=False,
            resolve_path=True,
        ),
    ] = None,
    study: _Study = None,
    by: Annotated[str | None, typer.Option("--by", help="Your name, recorded in the ledger with each file.", metavar="NAME")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="The reason, recorded too.", metavar="TEXT")] = None,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Restore archived files that are missing or damaged from copies with the same SHA-256.

    Reads all archived files. Damaged ones are set aside in .ledger/damaged/. `serve` may be running. The same as `replay --files`.

    Exit code 1 if a file could not be restored: it is listed.
    """
    replay(files=True, source=source, study=study, by=by, reason=reason, dry_run=dry_run, as_json=as_json)


@app.command("metadata", cls=Command)
def metadata(study: _Study = None, dry_run: _DryRun = False, as_json: _Json = False) -> None:
    """Write each metadata.json that is missing or differs from the ledger.

    Stop `serve` first. The same as `replay --metadata`.
    """
    replay(metadata=True, study=study, dry_run=dry_run, as_json=as_json)


@app.command("statuses", cls=Command)
def statuses(
    study: _Study = None,
    rate: Annotated[
        float, typer.Option("--rate", help="Maximum requests per second to the Status Service.", min=0.01, max=100_000, metavar="NUMBER")
    ] = 100.0,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Re-send the last status of each study for which the Status Service has none, or `described`.

    `serve` may be running. The same as `replay --statuses`.
    """
    replay(statuses=True, study=study, rate=rate, dry_run=dry_run, as_json=as_json)


@app.command("mirror", cls=Command)
def mirror(dry_run: _DryRun = False, as_json: _Json = False) -> None:
    """Rebuild the mirror, the ledger's copy on the archive volume.

    An old one is set aside in .ledger/damaged/. Stop `serve` first. The same as `replay --mirror`.
    """
    replay(mirror=True, dry_run=dry_run, as_json=as_json)


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
