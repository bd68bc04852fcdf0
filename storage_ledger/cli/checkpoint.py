"""`storage-ledger checkpoint`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from storage_ledger.cli.help_format import Group

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
    is printed again. The notes are also kept in `ARCHIVE_PATH/.ledger/checkpoints/`.

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
