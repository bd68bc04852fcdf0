"""`storage-ledger checkpoint`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from storage_ledger.cli.help_format import Command, Group

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def checkpoint(
    context: typer.Context,
    policy: Annotated[
        bool, typer.Option("--policy", help="Print what others need to check checkpoints and proofs: the public keys. Signs nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sign the ledger's present state, and print the signed note; `serve` may be running.

    The note states the number of entries and one hash over all of them. Whoever keeps a copy elsewhere can prove later that no entry
    was changed or removed since: `storage-ledger verify --checkpoint FILE`. If nothing was appended since the last checkpoint, its note
    is printed again. The notes are also kept in `ARCHIVE_PATH/.ledger/checkpoints/`; a running `serve` takes them to the places outside
    that the settings name.

    Exit code 2 if nothing was signed, for instance because the ledger does not continue its last checkpoint.
    """
    if context.invoked_subcommand is not None:
        return
    from storage_ledger.cli.output import print_json
    from storage_ledger.domain.checkpoint import Checkpoint
    from storage_ledger.domain.signed_note import SignedNote, encoded
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import checkpoint

    settings = Settings.load()
    if policy:
        for line in checkpoint.policy(settings):
            print(line)
        return
    data = checkpoint.sign(settings)
    if data is None:
        print("The ledger is empty: there is nothing to sign.", file=sys.stderr)
        raise typer.Exit(2)
    if not as_json:
        print(data.decode("utf-8"), end="")
        return
    note = SignedNote.parse(data)
    signed = Checkpoint.parse(note.text)
    print_json({"origin": signed.origin, "size": signed.size, "root": encoded(signed.root), "note": data.decode("utf-8")})


@app.command("rotate-key", cls=Command)
def rotate_key(
    by: Annotated[str, typer.Option("--by", help="Your name, recorded in the ledger; up to 100 characters.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger; up to 1000 characters.", metavar="TEXT")],
    at_once: Annotated[
        bool, typer.Option("--at-once", help="The present key signs nothing more, for instance because it may have been stolen.")
    ] = False,
    lost: Annotated[bool, typer.Option("--lost", help="The present key is lost: missing, unreadable, or another one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a new key sign checkpoints; `serve` may be running.

    The present key signs beside the new one for 30 days. Give others the new policy meanwhile (`storage-ledger checkpoint --policy`).
    The present key's file is kept with `.previous` after its name.

    Exit code 2 if nothing was changed.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.operations.quarantine import check_words
    from storage_ledger.operations.rotate_key import Rotation
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import checkpoint

    if at_once and lost:
        raise typer.BadParameter("use either --at-once or --lost")
    try:
        check_words(by, reason)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    rotation = Rotation.LOST if lost else Rotation.AT_ONCE if at_once else Rotation.ROUTINE
    position, recorded = checkpoint.rotate(Settings.load(), rotation, by=by, reason=reason)
    if as_json:
        print_json({"position": position, "vkey": recorded.vkey, "replaces": recorded.replaces, "both_until": recorded.both_until})
        return
    print(f"The new key is recorded at position {position}: {recorded.vkey}")
    if recorded.both_until is not None:
        print(f"The key before signs beside it until {recorded.both_until}.")
    print("Give whoever checks checkpoints the new policy: `storage-ledger checkpoint --policy`")
