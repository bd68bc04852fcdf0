"""`storage-ledger status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from storage_ledger.operations.report.status import StatusReport
    from storage_ledger.operations.report.verifications import Coverage, VerificationSummary


EVERY_S = 2.0


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the work queue, free space, and everything that needs attention.

    If `serve` is running, its /readyz and /metrics are queried as well.

    Exit code 1 if something needs attention. Flagged files, files with unreadable headers and unexplained files in uploads
    are shown, but do not count.
    """
    from storage_ledger.operations.report.status import current_status
    from storage_ledger.settings import Settings
    from storage_ledger.wiring.stores import reading

    if watch and as_json:
        raise typer.BadParameter("--watch and --json cannot be combined")
    settings = Settings.load()
    while True:
        with reading(settings) as ledger:
            look = current_status(ledger, settings)
        if not watch:
            break
        _print_over(look)
        time.sleep(EVERY_S)
    if as_json:
        from storage_ledger.cli.output import print_json

        print_json(look.to_json())
    else:
        _print(look)
    raise typer.Exit(1 if look.attention else 0)


def _print_over(look: StatusReport) -> None:
    """Print in place of what the terminal shows."""
    from storage_ledger.cli.output import console

    out = console()
    with out.capture() as text:
        _print(look, out)
    out.clear()
    out.file.write(text.get())
    out.file.flush()


def _print(look: StatusReport, on: Console | None = None) -> None:
    from storage_ledger.cli.output import age, console, counted, lasting, print_actions, print_table, safe, size

    out = on or console()
    serve = "is running" if look.serving else "is not running"
    out.print(f"[bold]Entries[/bold]    position {look.position}, {counted(look.studies, 'study', 'studies')}; serve {serve}")
    out.print(f"[bold]Index[/bold]      position {look.index_position if look.index_position is not None else 'none'}")
    out.print(f"[bold]Mirror[/bold]     position {look.mirror_position if look.mirror_position is not None else 'none'}")
    out.print(f"[bold]Verified[/bold]   {_verified(look.last_complete_verify)}")
    if look.coverage is not None and look.coverage.files:
        out.print(f"           {_covered(look.coverage)}")
    if look.last_verify is not None and look.last_verify != look.last_complete_verify:
        out.print(f"           last run: {_verified(look.last_verify)}")
    last = look.last_backup
    backed_up = "none is known" if last is None else f"{age(last.created)} ago, to position {last.position}"
    out.print(f"[bold]Backup[/bold]     {backed_up}")
    signed = look.last_checkpoint
    if signed is not None:
        out.print(f"[bold]Checkpoint[/bold] {age(signed.written_at)} ago, of {counted(signed.size, 'entry', 'entries')}")
    for place in look.outside:
        lacks = f", and has lacked a newer one for {lasting(place.waiting_s)}" if place.waiting_s else ""
        taken = f"one of {counted(place.entries, 'entry', 'entries')}" if place.entries else "none yet"
        out.print(safe(f"           {place.name} has taken {taken}{lacks}"))
    if look.flagged:
        out.print(f"[bold]Flagged[/bold]    {counted(look.flagged, 'file')} to review when convenient; nothing is held up")
    if look.headers_unreadable:
        count = counted(look.headers_unreadable, "file")
        out.print(f"[bold]Headers[/bold]    {count} whose header could not be read completely, or names no study; nothing is held up")
    for volume in look.volumes:
        free = "not accessible" if volume.free_bytes is None else f"{size(volume.free_bytes)} free"
        out.print(f"[bold]{volume.name.capitalize():10}[/bold] {free}, ", safe(volume.path), sep="")
        if volume.name == "uploads" and look.unexplained:
            left = counted(look.unexplained, "file")
            out.print(f"           {left} unexplained: `storage-ledger reconcile` lists them")
    if look.queue:
        out.print()
        print_table(out, ("Queue", "Items", "Oldest"), [(each.stage, each.rows, age(each.oldest)) for each in look.queue], wraps="")
    if look.attention:
        out.print()
        rows = [(item.code, item.detail) for item in look.attention]
        print_table(out, ("Needs attention", "Details"), rows, wraps="Details")
        print_actions(out, [(item.code, item.action) for item in look.attention])
    else:
        out.print("\nAll is well.")


def _covered(coverage: Coverage) -> str:
    from storage_ledger.cli.output import age, counted

    oldest = f", oldest read {age(coverage.oldest)} ago" if coverage.oldest else ""
    never = f", {coverage.never} not read yet" if coverage.never else ""
    return f"{coverage.recent} of {counted(coverage.files, 'file')} read in the last 30 days{oldest}{never}"


def _verified(last: VerificationSummary | None) -> str:
    from storage_ledger.cli.output import age, counted, size

    if last is None:
        return "not yet"
    what = "scrub" if last.by == "scrub" else "verify"
    whole = "" if last.complete else (", not complete yet" if what == "scrub" else ", interrupted")
    files, findings = counted(last.files, "file"), counted(last.findings, "finding")
    unseen = f", {last.unseen} could not be checked" if last.unseen else ""
    return f"{what}, {age(last.recorded_at)} ago{whole}: {files}, {size(last.bytes)} intact, {findings}{unseen}"
