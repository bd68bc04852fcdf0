"""`storage-ledger replay`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.replay.replay import Order, Part, Report, Tally


def replay(
    index: Annotated[bool, typer.Option("--index", help="The index, whole; this is the default. `serve` and `browse` may run.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="metadata.json of every study.")] = False,
    files: Annotated[bool, typer.Option("--files", help="Archived files that are missing or damaged, from --source.")] = False,
    statuses: Annotated[
        bool, typer.Option("--statuses", help="Every study's last status, at a Status Service that has lost it. `serve` may run.")
    ] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="The mirror on the archive volume, anew; an old one is set aside.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All of these; the mirror where it is damaged or gone.")] = False,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--source",
            help="With --files or --all: a folder to look in, such as an old archive or a backup; several times for several. Only read.",
            metavar="DIR",
            exists=True,
            file_okay=False,
            resolve_path=True,
        ),
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Only this study_id; not with --index or --mirror.", metavar="ID")] = None,
    rate: Annotated[float, typer.Option("--rate", help="With --statuses: questions a second at most.", min=0.01, max=100_000)] = 100.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing; `serve` may run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make again from the ledger what was lost or damaged.

    What is as the ledger says is left alone. --metadata, --files, --mirror and --all need `serve` stopped. Interrupted, it
    may be run again. Ends with 0 when all is as the ledger says, with 1 when something could not be mended: it is listed.
    """
    from contextlib import closing

    from storage_ledger.cli.progress import progress
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.operations.replay.replay import Order, Part
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import replay

    named = {Part.INDEX: index, Part.METADATA: metadata, Part.FILES: files, Part.STATUSES: statuses, Part.MIRROR: mirror}
    parts = {part for part, wanted in named.items() if wanted or every}
    if study is not None:
        if not valid_study_id(study):
            raise typer.BadParameter("no study_id is like this one")
        if every and not (index or mirror):
            parts -= {Part.INDEX, Part.MIRROR}
        if not parts or parts & {Part.INDEX, Part.MIRROR}:
            raise typer.BadParameter("--study goes with --metadata, --files, --statuses or --all: index and mirror are made whole")
    if source and Part.FILES not in parts:
        raise typer.BadParameter("--source goes with --files or --all")
    order = Order(
        parts=frozenset(parts or {Part.INDEX}),
        sources=tuple(source or ()),
        study=study,
        dry_run=dry_run,
        rate=rate,
        mirror_anew=mirror,
    )
    report = replay.replay(Settings.load(), order, progress, lambda text: print(f"storage-ledger: {text}", file=sys.stderr, flush=True))
    with closing(report.findings):
        if as_json:
            _print_json(report, order)
        else:
            _print(report, order)
    if report.trouble is not None:
        print(f"storage-ledger: {report.trouble}", file=sys.stderr)
        raise typer.Exit(2)
    raise typer.Exit(1 if len(report.findings) else 0)


def _print_json(report: Report, order: Order) -> None:
    """One document; the findings, of which there may be millions, one by one."""
    import json

    from storage_ledger.operations.replay.replay import Part

    document = {
        "dry_run": order.dry_run,
        "position": report.position,
        "parts": {part.value: asdict(tally) for part, tally in report.tallies.items()},
        "trouble": report.trouble.code if report.trouble else None,
        "detail": report.trouble.detail if report.trouble else None,
    }
    if Part.MIRROR in report.tallies:
        document["mirrored"] = report.tallies[Part.MIRROR].mended
    print(json.dumps(document, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "findings": [', end="")
    for number, finding in enumerate(report.findings):
        print(f"{',' if number else ''}\n    {json.dumps(asdict(finding), ensure_ascii=False)}", end="")
    print("\n  ]\n}" if len(report.findings) else "]\n}")


def _print(report: Report, order: Order) -> None:
    from storage_ledger.cli.output import console, safe
    from storage_ledger.operations.replay.replay import Part

    if order.dry_run:
        print("A dry run: nothing was changed.")
    parts = list(report.tallies)
    begun = len(parts) if report.ended_in is None else parts.index(report.ended_in) + 1
    for part in parts[:begun]:
        if part is report.ended_in and part in {Part.MIRROR, Part.INDEX}:
            print(f"The {part.value} is not made anew.")  # these are made whole, or not at all
        else:
            print(_line(part, report.tallies[part], dry_run=order.dry_run))
    if parts[begun:]:
        print(f"Not begun: {', '.join(parts[begun:])}.")
    if not len(report.findings):
        return
    out = console()
    out.print("\nWhat could not be:")
    for finding in report.findings:
        where = finding.path or finding.study_id or ""
        out.print("  ", safe(f"{finding.code}: {where}" + (f" ({finding.detail})" if finding.detail else "")), sep="", soft_wrap=True)
    if Part.FILES in report.tallies and report.tallies[Part.FILES].left:
        print("\nFiles are looked for in the folders that --source names: an old archive, a backup, uploads. Name more, and run it again.")


def _line(part: Part, tally: Tally, *, dry_run: bool) -> str:
    from storage_ledger.cli.output import size
    from storage_ledger.operations.replay.replay import Part

    done = "would be" if dry_run else "were"
    left = f", {tally.left:,} could not be" if tally.left else ""
    match part:
        case Part.MIRROR:
            if tally.left:
                return "The mirror is damaged, and was left as it is."
            if not tally.mended:
                return f"The mirror: {tally.looked_at:,} entries read, all as they were written."
            return f"The mirror {'would be' if dry_run else 'is'} made anew: {tally.mended:,} entries."
        case Part.INDEX:
            return f"The index {'would be' if dry_run else 'is'} made anew: {tally.mended:,} entries."
        case Part.FILES:
            return f"Files: {tally.looked_at:,} read, {tally.mended:,} ({size(tally.bytes)}) {done} put back{left}."
        case Part.METADATA:
            return f"metadata.json: {tally.looked_at:,} read, {tally.mended:,} ({size(tally.bytes)}) {done} written{left}."
        case Part.STATUSES:
            return f"Statuses: {tally.looked_at:,} asked for, {tally.mended:,} {done} told again{left}."
