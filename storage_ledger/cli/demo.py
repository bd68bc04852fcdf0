"""`storage-ledger demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    exit_when_done: Annotated[bool, typer.Option("--exit", help="Exit when all studies are archived. Default: wait for Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page, if it is free.", min=1, max=65535, metavar="PORT")] = 8001,
    folder: Annotated[Path | None, typer.Option(help="Keep all data in this new or empty folder.", metavar="DIR")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary folder.")] = False,
    viewer: Annotated[
        Path | None, typer.Option("--viewer-path", help="Open studies in the viewer that `scripts/viewer` prepared here.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and everything else to standard error.")] = False,
) -> None:
    """Run a complete pipeline with made-up patients on this machine, without Docker, network or root.

    Starts Valkey, the reference Status Service, `serve` and the web page on loopback, sends about 90 studies, some faulty
    on purpose, and reports the results. Ignores the settings in the environment.

    Exit code 1 if a study did not end as expected, 2 if the demo could not run, for example without Valkey.
    """
    from rich.console import Console

    from storage_ledger.cli.output import console, print_json
    from storage_ledger.demo.run import DemoOptions, run
    from storage_ledger.demo.servers import CannotRun

    options = DemoOptions(exit_when_done=exit_when_done, port=port, folder=folder, keep=keep, viewer=viewer)
    try:
        code = run(options, Console(stderr=True, highlight=False), print_json) if as_json else run(options, console())
    except CannotRun as error:
        print(f"storage-ledger demo: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)
