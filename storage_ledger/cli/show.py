"""`storage-ledger show STUDY_ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.report.timeline import StudyTimeline, TimelineFile

MESSAGE_DIFFERS = frozenset({"message-differs", "study-uid-differs"})
"""Flags that are shown with the patient and UIDs of message and file."""


def show(
    study_id: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_ID", help="The pipeline's study_id, or its first 8 or more characters; not the DICOM Study Instance UID."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one study: its state, its history, and what happens next.

    Rejected messages that named the study are included.

    Exit code 1 if the ledger has no entry for the study.
    """
    from storage_ledger.cli.study_prefix import meant
    from storage_ledger.operations.report.timeline import timeline_of
    from storage_ledger.settings import Settings
    from storage_ledger.wiring.stores import reading

    settings = Settings.load()
    with reading(settings) as ledger:
        timeline = timeline_of(ledger, settings, meant(ledger, study_id))
    if as_json:
        from storage_ledger.cli.output import print_json

        print_json(timeline.to_json())
    else:
        _print(timeline)
    raise typer.Exit(0 if timeline.entries else 1)


def _print(timeline: StudyTimeline) -> None:
    from rich.text import Text

    from storage_ledger.cli.output import age, console, counted, print_commands, print_table, print_text, safe, size

    out = console()
    if not timeline.entries:
        out.print("The ledger has no entry for ", safe(timeline.study_id), ".", sep="")
        return
    out.print("[bold]Study[/bold]  ", safe(timeline.study_id), sep="")
    out.print(f"[bold]State[/bold]  {timeline.state}; last status sent: {timeline.status_sent or 'none'}")
    for file in timeline.files:
        out.print("[bold]File[/bold]   ", safe(file.archive_path.partition("/")[2]), f"  {size(file.bytes)}", sep="", soft_wrap=True)
        out.print(f"       sha256 {file.sha256}", soft_wrap=True)
        if file.fixity in {"missing", "changed"}:
            out.print(f"       [bold]{file.fixity}[/bold] in the archive, when last read {file.verified_at}")
        for flag in file.flags:
            print_text(out, Text(flag, "bold red").append_text(safe(_explained(flag, file))), Text(" " * 7))
    if any(file.flags for file in timeline.files):
        out.print("\nThese files are archived unchanged. What to do: storage-ledger explain FLAG")
    out.print()
    rows = [
        (
            entry.position,
            entry.recorded_at[:19].replace("T", " "),
            "" if entry.after_s is None else f"+{entry.after_s:.3f} s",
            entry.summary,
            entry.cause or "",
        )
        for entry in timeline.entries
    ]
    print_table(out, ("Position", "Recorded at (UTC)", "After", "What happened", "Cause"), rows, wraps="What happened")
    if timeline.next:
        out.print()
        for step in timeline.next:
            when = f" (due {step.not_before})" if step.attempts else f" (since {age(step.recorded_at)})"
            out.print("[bold]Next[/bold]   ", safe(step.summary), when, sep="")
            if failed := step.failed_with:
                times = counted(step.attempts, "time")
                out.print("       ", safe(f"tried {times}; {failed.code}: {failed.action}"), sep="")
            for cause in step.held_up_by:
                out.print("       ", safe(f"held up by {cause.code} since {cause.since}: {cause.action}"), sep="")
    if timeline.advice:
        out.print("\n", safe(timeline.advice), sep="")
        print_commands(out, timeline.commands)


def _explained(flag: str, file: TimelineFile) -> str:
    from storage_ledger.domain.error_catalogue.flags_and_headers import FLAGS
    from storage_ledger.web.pages.formatting import identity

    if flag not in MESSAGE_DIFFERS:
        means = FLAGS.find(flag)
        return f": {means.summary}" if means else ""
    differing = [each["attribute"] for each in file.differences]
    header = file.patient | {each["attribute"]: each["file"] for each in file.differences}
    return f": Message: {identity(file.message, differing)}. File: {identity(header, differing)}."
