"""`storage-ledger acknowledge`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage_ledger.domain.checkpoint import Checkpoint


class Code(StrEnum):
    """The codes that can be acknowledged."""

    CLOCK_AHEAD = "clock-ahead"
    FORKED = "checkpoint-forked"


NOTHING = {
    Code.CLOCK_AHEAD: "Nothing to acknowledge: the ledger's latest time is not ahead of the clock, or was acknowledged before.",
    Code.FORKED: "Nothing to acknowledge: the ledger continues its last checkpoints.",
}


def acknowledge(
    code: Annotated[Code, typer.Argument(metavar="CODE", help="The code that `status` shows: clock-ahead or checkpoint-forked.")],
    by: Annotated[str, typer.Option("--by", help="Your name, recorded in the ledger; up to 100 characters.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger; up to 1000 characters.", metavar="TEXT")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Acknowledge a problem that cannot be undone, so that it is no longer reported.

    `clock-ahead`: the ledger's latest time is ahead of the clock. Set the clock first. Recorded times do not change, and a
    later jump is reported again. `serve` may be running.

    `checkpoint-forked`: the ledger does not continue its last checkpoints, because entries are lost for good. They are recorded and
    moved to `.ledger/damaged/`, and the ledger can be signed again. Anyone who kept one of them can still prove that history was changed.

    Exit code 1 if there is nothing to acknowledge.
    """
    from storage_ledger.cli.output import counted, print_json
    from storage_ledger.operations.clock_ahead import acknowledge_ahead
    from storage_ledger.operations.quarantine import check_words
    from storage_ledger.settings import Settings
    from storage_ledger.system.clock import utc_now
    from storage_ledger.wiring import stores

    try:
        check_words(by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    settings = Settings.load()
    forked: list[Checkpoint] = []
    if code is Code.FORKED:
        from storage_ledger.wiring.checkpoint import acknowledge_fork

        entry, forked = acknowledge_fork(settings, by=by, reason=reason) or (None, [])
    else:
        with stores.appending(settings) as ledger:
            entry = acknowledge_ahead(ledger, utc_now, by=by, reason=reason)
    if as_json:
        sizes = [each.size for each in forked]
        print_json({"code": code.value, "position": None if entry is None else entry.position, "checkpoints": sizes})
    elif entry is None:
        print(NOTHING[code])
    else:
        print(f"Acknowledged at position {entry.position}.")
        if forked:
            print(f"{counted(len(forked), 'checkpoint')} moved to ARCHIVE_PATH/.ledger/damaged/.")
    raise typer.Exit(1 if entry is None else 0)
