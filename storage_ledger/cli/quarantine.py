"""`storage-ledger quarantine list | show`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="See what waits for a person: files that could not be archived.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is quarantined, oldest first. Ends with 1 when there is something."""
    from storage_ledger import app as wiring
    from storage_ledger import report
    from storage_ledger.cli.output import age, console, print_json, safe, table
    from storage_ledger.settings import Settings

    with wiring.reading(Settings.load()) as ledger:
        items = list(report.quarantined(ledger))
    if as_json:
        print_json(items)
    elif not items:
        print("Nothing is quarantined.")
    else:
        rows = table("Position", "Since", "Study", "Upload", "Why")
        for item in items:
            rows.add_row(
                str(item["position"]),
                age(item["recorded_at"]),
                safe(item["study_id"]),
                safe(item["upload_path"]),
                safe(item["code"]),
            )
        console().print(rows)
    raise typer.Exit(1 if items else 0)


@app.command("show")
def show(
    study_id: Annotated[str, typer.Argument(help="The pipeline's study_id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is quarantined of one study, why, and what to do. Ends with 1 when nothing is."""
    from storage_ledger import app as wiring
    from storage_ledger import report
    from storage_ledger.cli.output import age, console, print_json, safe
    from storage_ledger.settings import Settings

    with wiring.reading(Settings.load()) as ledger:
        items = [item for item in report.quarantined(ledger, study_id) if item["study_id"] == study_id]
    if as_json:
        print_json(items)
    elif not items:
        print("Nothing of this study is quarantined.")
    else:
        out = console()
        for item in items:
            out.print("[bold]Upload[/bold]   ", safe(item["upload_path"]), sep="")
            out.print(f"[bold]Since[/bold]    {item['recorded_at']} ({age(item['recorded_at'])}), position {item['position']}")
            out.print("[bold]Why[/bold]      ", safe(f"{item['code']}: {item['detail']}"), sep="")
            out.print("[bold]To do[/bold]    ", safe(item["action"]), sep="")
    raise typer.Exit(0 if items else 1)
