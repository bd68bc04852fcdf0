"""`storage-ledger replay`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.replay.report import ReplayCounts, ReplayPart, ReplayPlan, ReplayReport


def replay(
    index: Annotated[bool, typer.Option("--index", help="Rebuild the index (default).")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Write each metadata.json that is missing or wrong.")] = False,
    files: Annotated[bool, typer.Option("--files", help="Restore missing and damaged files from --source.")] = False,
    statuses: Annotated[bool, typer.Option("--statuses", help="Re-send statuses that the Status Service lost.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Rebuild the mirror.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="All parts. The mirror is rebuilt only if it is missing, or damaged while the ledger is intact.")
    ] = False,
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
    study: Annotated[
        str | None,
        typer.Option("--study", help="Only this study. Not with --index or --mirror; --all skips these two.", metavar="STUDY_ID"),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", help="Maximum requests per second to the Status Service.", min=0.01, max=100_000, metavar="NUMBER")
    ] = 100.0,
    by: Annotated[str | None, typer.Option("--by", help="With --files: your name, recorded in the ledger.", metavar="NAME")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="With --files: the reason, recorded too.", metavar="TEXT")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing. `serve` may be running.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rebuild from the ledger what was lost or damaged.

    Runs the parts that you name, in the order mirror, files, metadata.json, index, statuses; `repair PART --help` says more
    about each. Anything that matches the ledger is left alone. Stop `serve` first for --metadata, --mirror and --all. May be
    interrupted and run again.

    Exit code 1 if something could not be repaired: it is listed. 2 if the command ended early, for example because the
    Status Service did not answer for 15 seconds: completed work is kept.
    """
    from contextlib import closing

    from storage_ledger.cli.output import end, print_json_with_problems
    from storage_ledger.cli.progress import progress
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.operations.quarantine import check_words
    from storage_ledger.operations.replay.report import ReplayPart, ReplayPlan
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import replay

    named = {
        ReplayPart.INDEX: index,
        ReplayPart.METADATA: metadata,
        ReplayPart.FILES: files,
        ReplayPart.STATUSES: statuses,
        ReplayPart.MIRROR: mirror,
    }
    parts = {part for part, wanted in named.items() if wanted or every}
    if study is not None:
        if not valid_study_id(study):
            raise typer.BadParameter("not a valid study_id")
        if every and not (index or mirror):
            parts -= {ReplayPart.INDEX, ReplayPart.MIRROR}
        if not parts or parts & {ReplayPart.INDEX, ReplayPart.MIRROR}:
            raise typer.BadParameter("--study needs --metadata, --files, --statuses or --all: index and mirror are rebuilt as a whole")
    if source and ReplayPart.FILES not in parts:
        raise typer.BadParameter("--source needs --files or --all")
    if by is not None or reason is not None:
        if ReplayPart.FILES not in parts:
            raise typer.BadParameter("--by and --reason need --files or --all")
        try:
            check_words(by or "", reason or "")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    plan = ReplayPlan(
        parts=frozenset(parts or {ReplayPart.INDEX}),
        sources=tuple(source or ()),
        study=study,
        dry_run=dry_run,
        rate=rate,
        force_mirror=mirror,
        by=by,
        reason=reason,
    )
    report = replay.replay(Settings.load(), plan, progress, lambda text: print(f"storage-ledger: {text}", file=sys.stderr, flush=True))
    with closing(report.problems):
        if as_json:
            print_json_with_problems(_document(report, plan), report.error, report.problems)
        else:
            _print(report, plan)
        end(report.error, report.problems)


def _document(report: ReplayReport, plan: ReplayPlan) -> dict[str, object]:
    from storage_ledger.operations.replay.report import ReplayPart

    document: dict[str, object] = {
        "dry_run": plan.dry_run,
        "position": report.position,
        "parts": {part.value: asdict(counts) for part, counts in report.counts.items()},
    }
    if ReplayPart.MIRROR in report.counts:
        document["mirrored"] = report.counts[ReplayPart.MIRROR].mended
    return document


def _print(report: ReplayReport, plan: ReplayPlan) -> None:
    from storage_ledger.cli.output import print_problems
    from storage_ledger.domain.error_catalogue.ledger_and_mirror import MIRROR
    from storage_ledger.domain.error_catalogue.replay import REPLAY
    from storage_ledger.domain.error_catalogue.retries import RETRIES
    from storage_ledger.operations.replay.report import ReplayPart

    if plan.dry_run:
        print("Dry run: nothing was changed.")
    parts = list(report.counts)
    begun = len(parts) if report.ended_in is None else parts.index(report.ended_in) + 1
    for part in parts[:begun]:
        if part is report.ended_in and part in {ReplayPart.MIRROR, ReplayPart.INDEX}:
            print(f"The {part.value} was not rebuilt.")  # these are rebuilt as a whole or not at all
        else:
            print(_line(part, report.counts[part], dry_run=plan.dry_run))
    if parts[begun:]:
        print(f"Not started: {', '.join(parts[begun:])}.")
    print_problems("Could not be repaired", report.problems, REPLAY, RETRIES, MIRROR)
    if ReplayPart.FILES in report.counts and report.counts[ReplayPart.FILES].left:
        print("\nName more folders with --source, such as an old archive, a backup or uploads, and run it again.")


def _line(part: ReplayPart, counts: ReplayCounts, *, dry_run: bool) -> str:
    from storage_ledger.cli.output import size
    from storage_ledger.operations.replay.report import ReplayPart

    done = "would be" if dry_run else "were"
    left = f", {counts.left:,} could not be" if counts.left else ""
    match part:
        case ReplayPart.MIRROR:
            if counts.left:
                return "The mirror is damaged and was left unchanged."
            if not counts.mended:
                return f"Mirror: {counts.looked_at:,} entries read, all intact."
            return f"Mirror: {counts.mended:,} entries {done} rebuilt."
        case ReplayPart.INDEX:
            return f"Index: {counts.mended:,} entries {done} rebuilt."
        case ReplayPart.FILES:
            return f"Files: {counts.looked_at:,} read, {counts.mended:,} ({size(counts.bytes)}) {done} restored{left}."
        case ReplayPart.METADATA:
            return f"metadata.json: {counts.looked_at:,} read, {counts.mended:,} ({size(counts.bytes)}) {done} written{left}."
        case ReplayPart.STATUSES:
            return f"Statuses: {counts.looked_at:,} checked, {counts.mended:,} {done} re-sent{left}."
