"""`storage-ledger acknowledge`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Code(StrEnum):
    """What can be acknowledged."""

    CLOCK_AHEAD = "clock-ahead"


def acknowledge(
    code: Annotated[Code, typer.Argument(help="What you have looked into: the code that `storage-ledger status` shows.")],
    by: Annotated[str, typer.Option("--by", help="Who decides this; it stands in the ledger.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger.", metavar="TEXT")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Record that you know about something that cannot be undone, so that it is no longer reported.

    `clock-ahead`: the ledger's last time is ahead of the clock. Set the clock first. The times in the ledger stay as they are; a
    further jump is reported again. Ends with 0 when it was recorded, with 1 when there is nothing to acknowledge.
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
        print("Nothing to acknowledge: the ledger's last time is not ahead of the clock, or that has been acknowledged.")
    else:
        print(f"Acknowledged, position {entry.position}.")
    raise typer.Exit(1 if entry is None else 0)
