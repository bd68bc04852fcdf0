"""`storage-ledger demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    exit_when_done: Annotated[bool, typer.Option("--exit", help="End when all is archived, instead of waiting for Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page; where it is taken, a free one.", min=1, max=65535)] = 8001,
    folder: Annotated[
        Path | None, typer.Option(help="An empty or new folder for everything, which is kept; without it a temporary one.", metavar="DIR")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary folder, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what happened as JSON; all else goes to standard error.")] = False,
) -> None:
    """Show everything at work on this machine: no Docker, no network, no root, made-up patients.

    Starts a real Valkey, the reference Status Service, `serve` and the web page on loopback, each a process of its own;
    sends some 90 studies as the pipeline would, some of them faulty on purpose; and says what became of them. Then it
    waits for Ctrl-C, which ends everything.

    Ends with 0 when all of it became what it should, however it was ended after that; with 1 when something did not,
    with 2 when it could not run, with 130 when it was interrupted before it was done.
    """
    from rich.console import Console

    from storage_ledger.cli.output import console, print_json
    from storage_ledger.demo.run import DemoOptions, run
    from storage_ledger.demo.servers import CannotRun

    options = DemoOptions(exit_when_done=exit_when_done, port=port, folder=folder, keep=keep)
    try:
        code = run(options, Console(stderr=True, highlight=False), print_json) if as_json else run(options, console())
    except CannotRun as error:
        print(f"storage-ledger demo: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)
