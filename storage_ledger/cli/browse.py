"""`storage-ledger browse`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

SHORTEST_PASSWORD = 12
"""For new passwords. Guesses against the login page are slowed down, but not against a stolen hash."""


def browse(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="BROWSE_HOST", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", envvar="BROWSE_PORT", min=0, max=65535, metavar="PORT")
    ] = 8001,
    no_login: Annotated[
        bool, typer.Option("--no-login", help="Admit everyone who can reach the address. The pages show patient data.")
    ] = False,
    hash_password: Annotated[
        bool, typer.Option("--hash-password", help="Ask for a password, print its hash for BROWSE_PASSWORD_HASH, and exit.")
    ] = False,
    new_token: Annotated[
        str | None,
        typer.Option(
            "--new-token",
            metavar="NAME",
            help="Create an API token: print its entry for BROWSE_TOKENS to standard output and the token to standard error, and exit.",
        ),
    ] = None,
    may: Annotated[
        str,
        typer.Option(
            "--may",
            metavar="WORDS",
            help="With --new-token: what the token may read, comma-separated: index, ledger, index/TABLE, ledger/TABLE, files, "
            "dicomweb, sql.",
        ),
    ] = "index,ledger",
) -> None:
    """Serve the web page: studies, images and the ledger, read-only.

    Nobody can log in until BROWSE_PASSWORD_HASH or BROWSE_TOKENS (or its _FILE variant) is set. Run it as the same user as
    `serve`. It waits up to BROWSE_WAIT_SECONDS for `serve` to create ledger.db and index.db.

    Exit code 2 if a setting is wrong or the files do not appear in time.
    """
    if hash_password:
        print(_hash(_new_password()))
        return
    if new_token is not None:
        _print_token(new_token, may)
        return
    import os

    from storage_ledger.settings import Settings
    from storage_ledger.system import logs
    from storage_ledger.system.sandbox import hide_memory
    from storage_ledger.web.auth.credentials import ADVICE, BrowseSettings, read_access

    hide_memory()
    settings, ours = Settings.load(), BrowseSettings.load()
    os.umask(0o027)  # files that SQLite creates beside the databases are not readable for others
    logs.configure(settings.log_level, environment=settings.environment)
    access = read_access(ours, settings.ledger_path, is_open=no_login)
    if not access.users and not access.tokens and not no_login:
        _say(ADVICE)
    from storage_ledger.web.server import run  # loading Datasette takes a second: report wrong settings first

    run(settings.index_file, settings.ledger_file, settings.archive_path, access, ours, host=host, port=port, say=_say)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_token(name: str, may: str) -> None:
    from storage_ledger.web.auth.credentials import is_user_name
    from storage_ledger.web.auth.credentials import new_token as make
    from storage_ledger.web.auth.token_scopes import Grant

    if not is_user_name(name):
        _say("A name consists of 1 to 64 characters of A-Z a-z 0-9 . _ @ -")
        raise typer.Exit(2)
    try:
        grant = Grant.of(may)
    except ValueError as error:
        _say(f"--may: {error}")
        raise typer.Exit(2) from None
    token, hashed = make()
    print(f"{name}:{grant}:{hashed}")
    _say(f"Add the line above to BROWSE_TOKENS. The token for `Authorization: Bearer …`, shown only this once:\n{token}")


def _new_password() -> str:
    """Ask twice without echo; if standard input is not a terminal, read all of it, without the final line end."""
    import getpass

    if not sys.stdin.isatty():
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    else:
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Repeat: "):
            _say("The passwords differ.")
            raise typer.Exit(2)
    if len(password.strip()) < SHORTEST_PASSWORD or "\n" in password:
        _say(f"A password must be one line of at least {SHORTEST_PASSWORD} characters.")
        raise typer.Exit(2)
    return password


def _hash(password: str) -> str:
    from storage_ledger.web.auth.credentials import hash_password

    return hash_password(password)
