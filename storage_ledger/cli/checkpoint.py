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
        bool, typer.Option("--policy", help="Print the public keys that others need to check checkpoints and proofs; sign nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sign a checkpoint of the ledger and print it; `serve` may be running.

    A checkpoint states the number of entries and one hash over all of them. Anyone who keeps a copy elsewhere can later prove that no
    entry has been changed or removed since: `storage-ledger verify --checkpoint FILE`. If nothing has been appended since the last
    checkpoint, that checkpoint is printed again. Checkpoints are kept in `ARCHIVE_PATH/.ledger/checkpoints/`; a running `serve` also sends
    them to the places outside that the settings name.

    Exit code 2 if nothing was signed, for example because the ledger does not continue its last checkpoint.
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
        bool, typer.Option("--at-once", help="Stop using the old key immediately, for example because it may have been stolen.")
    ] = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is lost: its file is missing, unreadable, or holds another key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replace the key that signs checkpoints; `serve` may be running.

    For 30 days the old key signs as well. Meanwhile give others the new policy (`storage-ledger checkpoint --policy`). The old key's file
    is kept under its name with `.previous` added.

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
        print(f"The old key signs as well until {recorded.both_until}.")
    print("Give the new policy to everyone who checks checkpoints: `storage-ledger checkpoint --policy`")
