"""`storage-ledger quarantine list | show | retry | discard`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from storage_ledger.cli.help_format import Command, Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage_ledger.domain.study import State
    from storage_ledger.ledger.contract import Ledger
    from storage_ledger.operations.quarantine import Decision, DecisionResult
    from storage_ledger.operations.report.quarantine import QuarantinedFile

WAIT_S = 60.0
LOOK_EVERY_S = 0.2

app = typer.Typer(
    cls=Group,
    help="List files that need manual review; retry or discard them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
    from storage_ledger.cli.output import console, print_json, print_table
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
        print_table(console(), *_listed(items), wraps="")
        print("\nWhat to do: storage-ledger quarantine show STUDY_ID")
    raise typer.Exit(1 if items else 0)


@app.command("show", cls=Command)
def show(
    study_id: Annotated[str, typer.Argument(metavar="STUDY_ID", help="The pipeline's study_id, or its first 8 or more characters.")],
    as_json: _Json = False,
) -> None:
    """Show why files of a study are quarantined, since when, and what to do.

    Exit code 1 if no file of the study is quarantined.
    """
    from storage_ledger.cli.output import age, console, print_commands, print_json, safe
    from storage_ledger.cli.study_prefix import meant
    from storage_ledger.operations.report.quarantine import quarantined
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import stores

    settings = Settings.load()
    with stores.reading(settings) as ledger:
        items = quarantined(ledger, settings, meant(ledger, study_id))
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
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until `serve` has archived the files or quarantined them again; at most 60 seconds.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Retry quarantined files, once you have fixed the cause.

    Retries all quarantined files of the study, or one (--upload). `serve` does it within seconds, or when it next starts.
    There is no new grace period: a file that is still missing is quarantined again immediately.

    Exit code 1 if there was nothing to retry, or a file was no longer quarantined: a redelivery or another decision came
    first; with --wait also if a file was not archived. 2 if the ledger could not be written; decisions printed before are
    recorded, and you may run it again.
    """
    from storage_ledger.domain.entries import Kind
    from storage_ledger.operations.quarantine import Decision

    if every == (study_id is not None) or (every and upload is not None) or (code is not None and not every):
        raise typer.BadParameter("give a STUDY_ID, optionally with --upload, or --all, optionally with --code")
    try:
        decision = Decision(Kind.RELEASED, by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _decide(decision, study_id, upload, code, wait=wait, as_json=as_json)


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
    _decide(decision, study_id, upload, None, wait=False, as_json=as_json)


def _listed(items: list[QuarantinedFile]) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return headings and rows."""
    from storage_ledger.cli.output import age

    rows: list[Sequence[object]] = [(item.position, age(item.recorded_at), item.code, item.study_id, _own_upload(item)) for item in items]
    return ("Position", "Age", "Code", "Study", "Upload"), rows


def _own_upload(item: QuarantinedFile) -> str:
    """Return the upload's path; "" if it says no more than the study_id."""
    return "" if item.upload_path == f"{item.study_id}.dcm" else item.upload_path


def _decide(decision: Decision, study_id: str | None, upload: str | None, code: str | None, *, wait: bool, as_json: bool) -> None:
    from storage_ledger.domain.entries import Kind
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.operations import quarantine
    from storage_ledger.settings import Settings
    from storage_ledger.system.locks import is_held
    from storage_ledger.wiring import stores

    if study_id is not None and not valid_study_id(study_id):
        raise typer.BadParameter("not a valid study_id")
    settings = Settings.load()
    results: list[DecisionResult] = []
    outcomes: dict[int, tuple[State, str | None]] = {}
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
            if wait and is_held(settings.lock_file):  # without `serve` nothing would happen
                outcomes = _outcomes(ledger, results)
        finally:
            _print(decision, results, outcomes if wait else None, as_json=as_json)
    done = bool(results) and all(result.position for result in results)
    archived = all(outcomes.get(result.position or 0, ("", None))[0] == "archived" for result in results)
    raise typer.Exit(0 if done and (archived or not wait) else 1)


def _outcomes(ledger: Ledger, results: list[DecisionResult]) -> dict[int, tuple[State, str | None]]:
    """Wait for `serve`, and return by position what became of the files that were released; those without an outcome are left out."""
    from storage_ledger.operations.quarantine import outcome

    found: dict[int, tuple[State, str | None]] = {}
    waiting = [result for result in results if result.position]
    until = time.monotonic() + WAIT_S
    while waiting:
        found |= {result.position: known for result in waiting if result.position and (known := outcome(ledger, result))}
        waiting = [result for result in waiting if result.position not in found]
        if time.monotonic() > until:
            break
        if waiting:
            time.sleep(LOOK_EVERY_S)
    return found


def _print(
    decision: Decision, results: list[DecisionResult], outcomes: dict[int, tuple[State, str | None]] | None, *, as_json: bool
) -> None:
    from storage_ledger.cli.output import console, print_json, print_table
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
                    "outcome": outcome[0],
                    "outcome_code": outcome[1],
                }
                for result in results
                for outcome in [(outcomes or {}).get(result.position or 0, (None, None))]
            ]
        )
        return
    if not results:
        print("No quarantined file matches.")
        return
    rows = []
    for result in results:
        was = result.code or result.found or "not in the ledger"
        now = f"{decision.kind.value}, position {result.position}" if result.position else "unchanged"
        if result.position and outcomes is not None:
            state, code = outcomes.get(result.position, ("still waiting: is `serve` running?", None))
            now = f"{state} again: {code}" if state == "quarantined" else str(state)
        rows.append((result.study_id, result.upload_path or "", was, now))
    out = console()
    print_table(out, ("Study", "Upload", "Before", "Now"), rows, wraps="")
    if outcomes is None and decision.kind is Kind.RELEASED and any(result.position for result in results):
        out.print("\n`serve` retries within seconds, or when it next starts.", markup=False)
