"""`storage-ledger adopt`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.adopt.adoption import AdoptNote, AdoptReport


def adopt(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be adopted, reading headers only; change nothing. `serve` may be running.")
    ] = False,
    rewrite_metadata: Annotated[
        bool,
        typer.Option(
            "--rewrite-metadata",
            help="Write metadata.json of each adopted study in the current format; the ledger keeps the old one. "
            "Also adopt unknown files in studies of this service.",
        ),
    ] = False,
    any_file: Annotated[bool, typer.Option("--any-file", help="Also adopt files that are not DICOM and have no DICOM-like name.")] = False,
    tell: Annotated[bool, typer.Option("--tell", help="Have `serve` send the status `archived` for these studies.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="New file that lists all files left alone or adopted with a remark; one JSON object per line: path, code, adopted.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Adopt an archive of the old storage-service into the ledger, in place.

    The archive is `ARCHIVE_PATH/<study_id>/<file>` with metadata.json. Each file is read, hashed and fsynced, and gets
    entries `described` and `archived`. No file is moved, renamed or, without --rewrite-metadata, changed. What cannot be
    adopted is left alone and listed with a code.

    Stop `serve` first. May be interrupted and run again: nothing is adopted twice. Rebuilds the index at the end; if
    that fails, `serve` does it when it starts.

    Exit code 1 if something was left alone, 2 if the archive or the ledger failed: run it again.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.cli.progress import progress
    from storage_ledger.errors import LedgerError, Locked, Retryable
    from storage_ledger.operations.adopt.adoption import AdoptPlan
    from storage_ledger.operations.adopt.legacy_archive import count_studies
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import adopt

    settings = Settings.load()
    plan = AdoptPlan(rewrite=rewrite_metadata, tell=tell, any_file=any_file, dry_run=dry_run)
    with _reporting(report) as noted, progress("Adopting", count_studies(settings.archive_path), "folders") as show:
        done = adopt.adopt(settings, plan, on_progress=show, on_noted=noted)
    if not dry_run:
        try:
            adopt.update_index(settings, progress)
        except (LedgerError, Retryable, Locked) as error:
            print(f"storage-ledger: {error}. The files are adopted; `serve` rebuilds the index when it starts.", file=sys.stderr)
    if as_json:
        print_json(asdict(done))
    else:
        _print(done)
    raise typer.Exit(1 if done.left_alone else 0)


@contextmanager
def _reporting(report: Path | None) -> Iterator[Callable[[AdoptNote, bool], None]]:
    if report is None:
        yield lambda _, __: None
        return
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:

        def write(noted: AdoptNote, left_alone: bool) -> None:
            print(json.dumps(asdict(noted) | {"adopted": not left_alone}, ensure_ascii=False), file=file)

        yield write


def _print(done: AdoptReport) -> None:
    from storage_ledger.cli.output import console, counted, print_advice, print_table, size
    from storage_ledger.domain.error_catalogue.adopt import LEFT_ALONE, REMARKS

    out = console()
    verb = "Would adopt" if done.dry_run else "Adopted"
    out.print(f"[bold]{verb}[/bold]  {counted(done.files, 'file')} of {counted(done.studies, 'study', 'studies')}, {size(done.bytes)}")
    out.print(f"[bold]Known[/bold]       {counted(done.known, 'file')} already in the ledger")
    for title, by_code, listed in (
        ("Left alone", done.left_alone_by_code, done.left_alone),
        ("Remarks", done.remarks_by_code, done.remarks),
    ):
        if not by_code:
            continue
        out.print(f"\n[bold]{title}[/bold]  " + ", ".join(f"{count} {code}" for code, count in sorted(by_code.items())))
        print_table(out, ("Path in the archive", "Code"), [(noted.path, noted.code) for noted in listed], wraps="")
        more = sum(by_code.values()) - len(listed)
        if more:
            out.print(f"… and {more} more: --report FILE lists all of them.")
    print_advice(out, [*done.left_alone_by_code, *done.remarks_by_code], LEFT_ALONE, REMARKS)
