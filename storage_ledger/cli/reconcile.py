"""`storage-ledger reconcile`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.pipeline.reconcile.sweep import Sweep


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be queued; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search uploads once for files whose message was lost, and for leftover uploads.

    `serve` does the same every RECONCILE_SECONDS. This command only queues what it finds for `serve`. Files that it cannot
    explain are listed and left unchanged. `serve` may be running.

    Exit code 1 if there are unexplained files, 2 if some files could not be checked; the result so far is printed.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.cli.progress import progress
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import reconcile

    settings = Settings.load()
    with progress("Searching uploads", None, "files") as show:
        done = reconcile.reconcile(settings, lambda sweep: show(sweep.looked_at), dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run} | asdict(done))
    else:
        if dry_run:
            print("Dry run: nothing was changed.")
        _print(done)
    if done.trouble is not None:
        print(f"storage-ledger: {done.trouble}: {done.detail}", file=sys.stderr)
        raise typer.Exit(2)
    raise typer.Exit(1 if done.unexplained else 0)


def _print(done: Sweep) -> None:
    from storage_ledger.cli.output import console, counted, print_advice, print_table, size
    from storage_ledger.domain.error_catalogue.reconcile import UNEXPLAINED_FILES

    out = console()
    out.print(f"[bold]Examined[/bold]      {counted(done.looked_at, 'file')}; {done.young} too new, {done.changing} still changing")
    out.print(f"[bold]Known[/bold]         {counted(done.held, 'file')} pending or quarantined")
    out.print(f"[bold]Recovered[/bold]     {counted(done.described, 'file')} whose message was lost")
    out.print(f"[bold]Leftover[/bold]      {counted(done.leftovers, 'file')} already archived, to be removed")
    out.print(f"[bold]Unexplained[/bold]   {counted(done.unexplained, 'file')}")
    if done.files:
        out.print()
        rows = [
            (
                file.path,
                "" if file.bytes is None else size(file.bytes),
                "" if file.age_s is None else f"{file.age_s} s",
                file.code,
                file.status,
            )
            for file in done.files
        ]
        print_table(out, ("Upload", "Size", "Age", "Code", "Status"), rows, wraps="")
    if done.unexplained > len(done.files):
        out.print(f"\n… and {done.unexplained - len(done.files)} more.")
    print_advice(out, (file.code for file in done.files), UNEXPLAINED_FILES)
