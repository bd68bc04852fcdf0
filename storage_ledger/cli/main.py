"""The `storage-ledger` program: its commands, and the exit code for each kind of error.

Each command imports what it needs when it runs, so that `serve` does not load the others and `--help` loads none.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any

import typer

from storage_ledger import __version__
from storage_ledger.cli import (
    acknowledge,
    adopt,
    backup,
    browse,
    checkpoint,
    copy_ledger,
    demo,
    explain,
    migrate,
    prove,
    quarantine,
    reconcile,
    repair,
    replay,
    restore,
    serve,
    show,
    status,
    status_service,
    verify,
    witness,
)
from storage_ledger.cli.exit_codes import EPILOGUE
from storage_ledger.cli.help_format import Command, Group
from storage_ledger.errors import Locked, StorageLedgerError

app = typer.Typer(
    name="storage-ledger",
    cls=Group,
    help="""Archive DICOM studies and record every step in an append-only ledger.

Settings are environment variables; every command reads the same ones as `serve`.
Results go to standard output; logs, progress and errors to standard error.""",
    epilog=EPILOGUE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


# typer bundles its own click and exports only some of its errors; this is their common base class.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"storage-ledger {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.", callback=_version, is_eager=True)] = False,
) -> None:
    del version


def _add(panel: str, *commands: Callable[..., None]) -> None:
    """Add each command under its function's name."""
    for command in commands:
        app.command(command.__name__.replace("_", "-"), cls=Command, rich_help_panel=panel)(command)


_add("Operations", serve.serve, status.status, show.show)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Operations")
_add("Operations", explain.explain, acknowledge.acknowledge, browse.browse)
_add("Backup and integrity", backup.backup, verify.verify)
app.add_typer(checkpoint.app, name="checkpoint", rich_help_panel="Backup and integrity")
_add("Backup and integrity", prove.prove, prove.verify_proof, witness.witness)
_add("Recovery", replay.replay, restore.restore, reconcile.reconcile)
app.add_typer(repair.app, name="repair", rich_help_panel="Recovery")
_add("Setup", adopt.adopt, migrate.migrate, copy_ledger.copy_ledger, copy_ledger.follow)
_add("Demo and testing", demo.demo, status_service.status_service)


@cache
def command_line() -> Callable[..., object]:
    """Build all commands from their functions' signatures, once per process: it takes 30 ms."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line, and end the process with one of `EXIT_CODES`."""
    if sys.stderr is not None:
        faulthandler.enable()  # a crash in native code (SQLite, say) then leaves the Python frames, without values
    try:
        code = command_line()(standalone_mode=False)
    except Locked as error:
        _say(error)
        sys.exit(11)
    except StorageLedgerError as error:
        _say(error)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except _UsageError as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone, which is not an error
        sys.exit(0)
    except OSError as error:
        _say(StorageLedgerError("os-error", f"{os.strerror(error.errno or 0)}: {error.filename or 'no file'}"))
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - a bug: reported without its text, which may quote a value, and never as 1, which means findings
        from storage_ledger.system.logs import where

        _say(StorageLedgerError("internal-error", f"{type(error).__name__} at {where(error)}. Please report this line."))
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: StorageLedgerError) -> None:
    try:
        print(
            f"storage-ledger: {error.code}: {error.detail}" if error.detail else f"storage-ledger: {error.code}",
            file=sys.stderr,
            flush=True,
        )
    except OSError:  # a full disk or a closed pipe: the exit code still reports the failure
        with suppress(OSError):  # otherwise Python would flush the buffer at exit, fail again and change the exit code to 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
