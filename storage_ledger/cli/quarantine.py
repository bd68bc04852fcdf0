"""`storage-ledger quarantine list | show | retry | discard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from storage_ledger.cli.help_format import Command, Group

if TYPE_CHECKING:
    from rich.table import Table

    from storage_ledger.operations.quarantine import Decision, DecisionResult
    from storage_ledger.operations.report.quarantine import QuarantinedFile

app = typer.Typer(
    cls=Group,
    help="List files that need manual review; retry or discard them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LENGTH_OF_A_UUID = 36

_Upload = Annotated[
    str | None, typer.Option("--upload", metavar="PATH", help="Only this upload: its path below UPLOADS_PATH, as `list` shows it.")
]
_By = Annotated[str, typer.Option("--by", help="Your name, recorded in the ledger; up to 100 characters.", metavar="NAME")]
_Reason = Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger; up to 1000 characters.", metavar="TEXT")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", cls=Command)
def list_(as_json: _Json = False) -> None:
    """List quarantined files, oldest first.

    Exit code 1 if there are any.
    """
    from storage_ledger.cli.output import console, print_json
    from storage_ledger.operations.report.quarantine import quarantined
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import stores

    settings = Settings.load()
    with stores.reading(settings) as ledger:
        items = quarantined(ledger, settings)
    if as_json:
        print_json([item.to_json() for item in items])
    elif not items:
        print("Nothing is quarantined.")
    else:
        console().print(_listed(items))
        print("\nWhat to do: storage-ledger quarantine show STUDY_ID")
    raise typer.Exit(1 if items else 0)


@app.command("show", cls=Command)
def show(
    study_id: Annotated[str, typer.Argument(metavar="STUDY_ID", help="The pipeline's study_id.")],
    as_json: _Json = False,
) -> None:
    """Show why files of a study are quarantined, since when, and what to do.

    Exit code 1 if no file of the study is quarantined.
    """
    from storage_ledger.cli.output import age, console, print_commands, print_json, safe
    from storage_ledger.operations.report.quarantine import quarantined
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import stores

    settings = Settings.load()
    with stores.reading(settings) as ledger:
        items = quarantined(ledger, settings, study_id)
    if as_json:
        print_json([item.to_json() for item in items])
    elif not items:
        print("No file of this study is quarantined.")
    else:
        out = console()
        for item in items:
            out.print("[bold]Upload[/bold]   ", safe(item.upload_path), sep="")
            out.print(f"[bold]Since[/bold]    {item.recorded_at} ({age(item.recorded_at)}), position {item.position}")
            out.print("[bold]Why[/bold]      ", safe(f"{item.code}: {item.detail}"), sep="")
            for other in item.archived_as or ():
                out.print("[bold]But[/bold]      ", safe(f"a file of this path is archived for study {other}"), sep="")
            out.print("[bold]To do[/bold]    ", safe(item.action), sep="")
            print_commands(out, item.commands)
    raise typer.Exit(0 if items else 1)


@app.command("retry", cls=Command)
def retry(
    by: _By,
    reason: _Reason,
    study_id: Annotated[str | None, typer.Argument(metavar="STUDY_ID", help="The pipeline's study_id; omit it with --all.")] = None,
    upload: _Upload = None,
    every: Annotated[bool, typer.Option("--all", help="Retry all quarantined files.")] = False,
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="With --all: only files quarantined with this code.")] = None,
    as_json: _Json = False,
) -> None:
    """Retry quarantined files, once you have fixed the cause.

    Retries all quarantined files of the study, or one (--upload). `serve` does it within seconds, or when it next starts.
    There is no new grace period: a file that is still missing is quarantined again immediately.

    Exit code 1 if there was nothing to retry, or a file was no longer quarantined: a redelivery or another decision came
    first. 2 if the ledger could not be written; decisions printed before are recorded, and you may run it again.
    """
    from storage_ledger.domain.entries import Kind
    from storage_ledger.operations.quarantine import Decision

    if every == (study_id is not None) or (every and upload is not None) or (code is not None and not every):
        raise typer.BadParameter("give a STUDY_ID, optionally with --upload, or --all, optionally with --code")
    try:
        decision = Decision(Kind.RELEASED, by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _decide(decision, study_id, upload, code, as_json=as_json)


@app.command("discard", cls=Command)
def discard(
    study_id: Annotated[str, typer.Argument(metavar="STUDY_ID", help="The pipeline's study_id.")],
    by: _By,
    reason: _Reason,
    upload: _Upload = None,
    as_json: _Json = False,
) -> None:
    """Discard quarantined files: stop waiting for them.

    Discards all quarantined files of the study, or one (--upload). The files stay in uploads. A redelivery of the message
    still archives its file.

    Exit codes 1 and 2 as for `quarantine retry`.
    """
    from storage_ledger.domain.entries import Kind
    from storage_ledger.operations.quarantine import Decision

    try:
        decision = Decision(Kind.DISCARDED, by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _decide(decision, study_id, upload, None, as_json=as_json)


def _listed(items: list[QuarantinedFile]) -> Table:
    from storage_ledger.cli.output import age, safe, table

    rows = table("Position", "Age", "Study", "Upload", "Code")
    # A study_id is not wrapped, so that it can be copied; there is no room for the longest possible ones.
    rows.columns[2].no_wrap = all(len(item.study_id) <= LENGTH_OF_A_UUID for item in items)
    for item in items:
        rows.add_row(str(item.position), age(item.recorded_at), safe(item.study_id), safe(item.upload_path), safe(item.code))
    return rows


def _decide(decision: Decision, study_id: str | None, upload: str | None, code: str | None, *, as_json: bool) -> None:
    from storage_ledger.domain.entries import Kind
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.operations import quarantine
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import stores

    if study_id is not None and not valid_study_id(study_id):
        raise typer.BadParameter("not a valid study_id")
    if upload is not None and not _is_text(upload):
        raise typer.BadParameter("--upload must be UTF-8, like every path in the ledger")
    settings = Settings.load()
    results: list[DecisionResult] = []
    with stores.appending(settings) as ledger:
        if study_id is not None:
            targets = [quarantine.DecisionTarget(study_id, upload)]
        else:
            found = quarantine.in_quarantine(ledger, ledger.studies_with_kind(Kind.QUARANTINED.value))
            targets = [
                quarantine.DecisionTarget(each.study_id, each.upload_path, each.position) for each in found if code in {None, each.code}
            ]
        try:
            for result in quarantine.decide(ledger, decision, targets):
                results.append(result)  # noqa: PERF402 - those before an error are recorded, so they are printed as well
        finally:
            _print(decision, results, as_json=as_json)
    raise typer.Exit(0 if results and all(result.position for result in results) else 1)


def _print(decision: Decision, results: list[DecisionResult], *, as_json: bool) -> None:
    from storage_ledger.cli.output import console, print_json, safe, table
    from storage_ledger.domain.entries import Kind

    if as_json:
        print_json(
            [
                {
                    "study_id": result.study_id,
                    "upload_path": result.upload_path,
                    "found": result.found,
                    "code": result.code,
                    "position": result.position,
                }
                for result in results
            ]
        )
        return
    if not results:
        print("No quarantined file matches.")
        return
    rows = table("Study", "Upload", "Before", "Now")
    for result in results:
        was = result.code or result.found or "not in the ledger"
        now = f"{decision.kind.value}, position {result.position}" if result.position else "unchanged"
        rows.add_row(safe(result.study_id), safe(result.upload_path), safe(was), now)
    out = console()
    out.print(rows)
    if decision.kind is Kind.RELEASED and any(result.position for result in results):
        out.print("\n`serve` retries within seconds, or when it next starts.", markup=False)


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
