"""`storage-ledger copy-ledger` and `storage-ledger follow`."""

from __future__ import annotations

from typing import Annotated

import typer


def copy_ledger(
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", help="Where to: `postgresql+psycopg://user@host/database`, or `sqlite:///PATH` of a ledger.db."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the ledger to another engine, and move it there if `serve` is stopped.

    Every entry is checked against its hashes, and the Merkle roots of both ledgers are compared. While `serve` runs, only copies:
    stop it and run the same command again, which takes seconds, to move. The old ledger is then marked and no longer written to.

    To PostgreSQL: set LEDGER_URL for all commands from then on. LEDGER_PATH/ledger.db stays as the local copy that pages and
    `verify` read. Back to SQLite: run it with LEDGER_URL set, then unset that.

    Exit code 1 if `serve` was running: copied, but not moved. 2 if the target is not a copy of this ledger.
    """
    from storage_ledger.cli.output import counted, print_json
    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import copy_ledger as wiring

    settings = Settings.load()
    titles = {"copied": "Copying", "checked": "Comparing"}
    with steps() as show:
        done = wiring.copy_ledger(settings, to, lambda step, done, total: show(Step(titles[step], "entries", done, total)))
    if as_json:
        print_json({"entries": done.position, "root": done.root.hex(), "moved": done.moved})
    else:
        print(f"{counted(done.position, 'entry', 'entries')} copied; both have the root {done.root.hex()}.")
        if not done.moved:
            print("`serve` is running, so the ledger is still here: stop it, then run this again to move.")
        elif settings.ledger_url is None:
            print("The ledger is in PostgreSQL now: set LEDGER_URL for `serve` and all commands.")
        else:
            print("The ledger is in SQLite now: unset LEDGER_URL.")
    raise typer.Exit(0 if done.moved else 1)


def follow() -> None:
    """Keep a local copy of a ledger in PostgreSQL, and its index, for `browse` on a host without `serve`.

    Creates LEDGER_PATH/ledger.db and index.db. Runs until SIGTERM or Ctrl-C. Not needed where `serve` runs: it does the same.

    Exit code 11 if `serve` or another `follow` uses this LEDGER_PATH.
    """
    import signal
    import threading

    from storage_ledger.settings import Settings
    from storage_ledger.system.signals import signals_heard
    from storage_ledger.wiring import copy_ledger as wiring

    stop = threading.Event()
    with signals_heard((signal.SIGTERM, signal.SIGINT), lambda _: stop.set()):
        wiring.follow(Settings.load(), stop)
