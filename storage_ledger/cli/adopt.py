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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and say what would be adopted and what would not.")] = False,
    rewrite_metadata: Annotated[
        bool,
        typer.Option("--rewrite-metadata", help="Write each adopted study's metadata.json anew in today's form, also where there is none."),
    ] = False,
    any_file: Annotated[bool, typer.Option("--any-file", help="Adopt files that are no DICOM and are not called like one, too.")] = False,
    tell: Annotated[bool, typer.Option("--tell", help="Have `serve` tell the Status Service of them; the old service once did.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write all that was left alone or remarked, a line of JSON each.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take an archive of the old service into the ledger, in place.

    That is ARCHIVE_PATH/<study_id>/<file>, with metadata.json. Files are read, and entries appended; nothing is moved,
    renamed or (without --rewrite-metadata) rewritten. What cannot be adopted is left alone and listed with a code:
    `storage-ledger explain CODE` tells what to do. Needs `serve` stopped. Interrupted, it may be run again: it goes on, and
    adopts nothing twice. The index is made at the end. Ends with 1 when something was left alone.
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
            adopt.bring_up_index(settings, progress)
        except (LedgerError, Retryable, Locked) as error:
            print(f"storage-ledger: {error}. The files are adopted; `serve` makes the index when it starts.", file=sys.stderr)
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
    from storage_ledger.cli.output import console, counted, print_advice, safe, size, table
    from storage_ledger.domain.error_catalogue.adopt import LEFT_ALONE, REMARKS

    out = console()
    verb = "Would adopt" if done.dry_run else "Adopted"
    out.print(f"[bold]{verb}[/bold]  {counted(done.files, 'file')} of {counted(done.studies, 'study', 'studies')}, {size(done.bytes)}")
    out.print(f"[bold]Known[/bold]       {counted(done.known, 'file')}: in the ledger already")
    for title, by_code, listed in (
        ("Left alone", done.left_alone_by_code, done.left_alone),
        ("Remarks", done.remarks_by_code, done.remarks),
    ):
        if not by_code:
            continue
        out.print(f"\n[bold]{title}[/bold]  " + ", ".join(f"{count} {code}" for code, count in sorted(by_code.items())))
        rows = table("In the archive", "Why")
        for noted in listed:
            rows.add_row(safe(noted.path), noted.code)
        out.print(rows)
        more = sum(by_code.values()) - len(listed)
        if more:
            out.print(f"… and {more} more: --report FILE writes them all.")
    print_advice(out, [*done.left_alone_by_code, *done.remarks_by_code], LEFT_ALONE, REMARKS)
