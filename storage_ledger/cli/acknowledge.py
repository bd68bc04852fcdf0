"""`storage-ledger acknowledge`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Code(StrEnum):
    """The codes that can be acknowledged."""

    CLOCK_AHEAD = "clock-ahead"


def acknowledge(
    code: Annotated[Code, typer.Argument(metavar="CODE", help="The code that `storage-ledger status` shows: clock-ahead.")],
    by: Annotated[str, typer.Option("--by", help="Your name, recorded in the ledger; up to 100 characters.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger; up to 1000 characters.", metavar="TEXT")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Acknowledge a problem that cannot be undone, so that it is no longer reported.

    `clock-ahead`: the ledger's latest time is ahead of the clock. Set the clock first. Recorded times do not change, and a
    later jump is reported again. `serve` may be running.

    Exit code 1 if there is nothing to acknowledge.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.operations.clock_ahead import acknowledge_ahead
    from storage_ledger.operations.quarantine import check_words
    from storage_ledger.settings import Settings
    from storage_ledger.system.clock import utc_now
    from storage_ledger.wiring import stores

    try:
        check_words(by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with stores.appending(Settings.load()) as ledger:
        entry = acknowledge_ahead(ledger, utc_now, by=by, reason=reason)
    if as_json:
        print_json({"code": code.value, "position": None if entry is None else entry.position})
    elif entry is None:
        print("Nothing to acknowledge: the ledger's latest time is not ahead of the clock, or was acknowledged before.")
    else:
        print(f"Acknowledged at position {entry.position}.")
    raise typer.Exit(1 if entry is None else 0)
