"""commands.md, and the README's table of commands, from the program's own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main
from reference_pages.json_keys import JSON_KEYS, Json

from storage_ledger.cli.exit_codes import EXIT_CODES
from storage_ledger.cli.main import app

NAME = "storage-ledger"
SHORT = 4
"""An option that several commands have is described once, unless its description has no more words than this."""

HEAD = """\
# Commands

<!-- scripts/reference writes this page from storage_ledger/cli: change it there. -->

`storage-ledger COMMAND [ARGUMENT] [OPTIONS]`, or `python -m storage_ledger COMMAND …`.
With compose: `docker compose exec storage-service storage-ledger status`.
Every command takes `--help` (`-h`); `storage-ledger --version` (`-V`) prints the version.

Every command reads the same [settings](settings.md) as `serve`.
Results go to standard output; logs, errors and progress (a bar, or a line every ten seconds) to standard error.

## Exit codes
The sections below say what 1 and 2 mean for a command.

"""

READ_ON = {
    "serve": "[its HTTP endpoints](http.md)",
    "status": "[needs attention](error-codes.md#attention), [flags](error-codes.md#flags)",
    "explain": "[all error codes](error-codes.md)",
    "quarantine list": "[when something is quarantined](../how-to/look-after-it.md#when-something-is-quarantined)",
    "acknowledge": "[the clock is ahead](../how-to/clock-ahead.md), [the ledger is forked](../how-to/ledger-forked.md), "
    "[`acknowledged`](entry-kinds.md#acknowledged)",
    "checkpoint rotate-key": "[the key that signs checkpoints](../how-to/checkpoint-key.md), [`key`](entry-kinds.md#key)",
    "browse": "[settings](settings.md#browse), [HTTP](http.md#browse), [what a token may see](http.md#what-a-token-may-see)",
    "backup": "[back up](../how-to/look-after-it.md#back-up)",
    "verify": "[verify](../how-to/verify.md), [`verified`](entry-kinds.md#verified)",
    "prove": "[prove a study](../how-to/prove-a-study.md), [format](hashes.md#proofs)",
    "verify-proof": "[prove a study](../how-to/prove-a-study.md)",
    "replay": "[rebuild what is derived](../how-to/rebuild-what-is-derived.md), [files damaged or "
    "deleted](../how-to/files-damaged-or-deleted.md), [archive volume lost](../how-to/archive-volume-lost.md)",
    "restore": "[ledger volume lost](../how-to/ledger-volume-lost.md), [old backup restored](../how-to/old-backup-restored.md)",
    "repair headers": "[DICOM headers](../how-to/rebuild-what-is-derived.md#dicom-headers), [`header-read`](entry-kinds.md#header-read)",
    "reconcile": "[lost messages](../how-to/make-up-for-lost-messages.md), [unexplained files](error-codes.md#unexplained-files)",
    "adopt": "[adopt an old archive](../how-to/adopt-an-old-archive.md)",
    "witness": "[run a witness](../how-to/keep-heads-elsewhere.md#run-a-witness)",
    "demo": "[tutorial](../tutorial.md)",
}
"""Where the page says more of a command."""


def page() -> str:
    """Return the text of commands.md."""
    exits = (f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items())
    known: dict[str, str] = {}
    return HEAD + "\n".join([*exits, "", *(line for name, command in commands().items() for line in _section(name, command, known))])


def readme_table() -> str:
    """Return the README's table: each command, or group of commands, with the first sentence of its help; no demo."""
    top = typer.main.get_command(app).commands  # type: ignore[attr-defined] # it is a group
    shown = {
        _with_subcommands(name, each): each.help.partition("\n\n")[0] for name, each in top.items() if "Demo" not in each.rich_help_panel
    }
    return "\n".join(_table({f"`{NAME} …`": list(shown), "does": list(shown.values())}))


def _with_subcommands(name: str, command: Any) -> str:
    names = [f"{name} {each}" for each in getattr(command, "commands", {})]
    return ", ".join(f"`{each}`" for each in ([name, *names] if _acts(command) else names))


def _acts(command: Any) -> bool:
    """Return whether it can be called as it is; a group usually needs one of its commands."""
    return not hasattr(command, "commands") or bool(command.invoke_without_command)


def commands() -> dict[str, Any]:
    """Return each command by its name, such as `quarantine list`, in the order of the program's help."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        if name and _acts(command):
            found[name] = command
        for sub, each in getattr(command, "commands", {}).items():
            walk(f"{name} {sub}".strip(), each)

    walk("", typer.main.get_command(app))
    return found


def _section(name: str, command: Any, known: dict[str, str]) -> Iterator[str]:
    """`known`: by the line of an option, the first command that has it. Other commands only name the option."""
    params = [each for each in command.params if not (name in JSON_KEYS and "--json" in each.opts)]
    params.sort(key=_is_option)
    yield f"## {NAME} {name}"
    for paragraph in command.help.split("\n\n"):
        yield paragraph.replace(". ", ".\n") + "\n"
    if params:
        yield "\n".join(_parameters(name, params, known)) + "\n"
    if name in JSON_KEYS:
        yield f"`--json` prints {_keys(JSON_KEYS[name])}.\n"
    if name in READ_ON:
        yield f"More: {READ_ON[name]}.\n"


def _parameters(name: str, params: list[Any], known: dict[str, str]) -> Iterator[str]:
    elsewhere: dict[str, list[str]] = {}
    for each in params:
        line = f"- {_spelled(each)}: {_does(each)}"
        if (first := known.setdefault(line, name)) == name or len(_does(each).split()) <= SHORT:
            yield line
        else:
            elsewhere.setdefault(first, []).append(_spelled(each))
    for first, spelled in elsewhere.items():
        yield f"- {', '.join(spelled)}: as for [`{first}`](#{NAME}-{first.replace(' ', '-')})."


def _is_option(param: Any) -> bool:
    return bool(param.opts[0].startswith("-"))


def _spelled(param: Any) -> str:
    if not _is_option(param):
        return f"`{param.metavar}`"
    value = "" if param.is_flag else f" {param.metavar}"
    return "`" + ", ".join([param.opts[0] + value, *param.secondary_opts]) + "`"


def _does(param: Any) -> str:
    text: str = param.help
    if param.required and _is_option(param):
        text += " Required."
    if param.default not in {None, ""} and not param.required and not param.is_flag:
        text += f" Default: `{param.default:g}`." if isinstance(param.default, float) else f" Default: `{param.default}`."
    return text + (f" Environment: `{param.envvar}`." if param.envvar else "")


def _keys(json: Json) -> str:
    keys = [f"`{key}` ({note})" if note else f"`{key}`" for key, note in json.keys.items()]
    if json.like:
        return " and ".join([f"what `{json.like}` prints", *keys])
    return f"a list of objects with {', '.join(keys)}" if json.listed else ", ".join(keys)


def _table(columns: dict[str, list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for cells in zip(*columns.values(), strict=True):
        yield f"| {' | '.join(cells)} |"
