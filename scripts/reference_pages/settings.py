"""settings.md, and the tables of settings in README.md and .env.example, from the settings' own descriptions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from reference_pages.commands import commands

from storage_ledger.domain.error_catalogue.explanation import plain
from storage_ledger.settings import Settings
from storage_ledger.web.auth.credentials import BrowseSettings

ROOT = Path(__file__).resolve().parents[2]

COMMON = (
    "REDIS_URL", "DESCRIBED_STREAM", "STATUS_SERVICE_URL", "UPLOADS_PATH", "NEIGHBOUR_UPLOADS_PATHS", "ARCHIVE_PATH", "LEDGER_PATH",
    "MISSING_FILE_GRACE_SECONDS",
)  # fmt: skip
"""The settings that the README shows."""

HEAD = """\
# Settings

<!-- scripts/reference writes this page from storage_ledger/settings.py and storage_ledger/web/auth/credentials.py: change it there. -->

All settings are environment variables, read once when a command starts.
An empty variable counts as not set.
If any are wrong, the command names them all, without their values, and ends with 2 ([`bad-settings`](error-codes.md#bad-settings)).
For compose, copy `.env.example` to `.env`; it also has the containers' ports, volumes and users.
In brackets below: default; range.

"""

SERVICE = """\
## The service
UPLOADS_PATH, ARCHIVE_PATH and LEDGER_PATH must be separate folders, none inside another.
Relative paths start from the working directory.

"""

EXAMPLE = """
Example, for a service beside a pipeline on one machine:

```sh
export REDIS_URL=redis://127.0.0.1:6379
export STATUS_SERVICE_URL=http://127.0.0.1:8003
export UPLOADS_PATH=/srv/pipeline/uploads
export ARCHIVE_PATH=/srv/pipeline/archive
export LEDGER_PATH=/srv/pipeline/ledger
export NEIGHBOUR_UPLOADS_PATHS=/app/uploads:/data/incoming
export HTTP_HOST=127.0.0.1
storage-ledger serve
```

`SQLITE_TMPDIR` is SQLite's own setting: its folder for temporary files.
If `/tmp` is small, name a folder with free space: rebuilding a large index sorts there.

"""

SINGLE = """\
## Single commands
Options on the command line override these.

"""

BROWSE = """
## Browse
`storage-ledger browse` reads these, and LEDGER_PATH, ARCHIVE_PATH, ENVIRONMENT and LOG_LEVEL.
More: [users and tokens](../how-to/let-people-look.md), [what a token may see](http.md#what-a-token-may-see).

"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line. `value`: what it may be, if that is limited; units are in the names."""

    name: str
    default: str | None
    value: str
    description: str

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return plain(self.description).partition(". ")[0].removesuffix(".") + "."


def page() -> str:
    """Return the text of settings.md."""
    return "\n".join(
        [
            *(HEAD + SERVICE).split("\n")[:-1],
            *_list(settings(Settings)),
            *EXAMPLE.split("\n")[:-1],
            *SINGLE.split("\n")[:-1],
            *_list(options()),
            *BROWSE.split("\n")[:-1],
            *_list(settings(BrowseSettings)),
            "",
        ]
    )


def readme_table() -> str:
    """Return the README's table: the common settings, each with the first sentence of its description."""
    known = {each.name: each for each in settings(Settings)}
    rows = [f"| `{name}` | {_default(known[name].default)} | {known[name].summary} |" for name in COMMON]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def env_example(model: type[BaseSettings]) -> str:
    """Return the lines of .env.example for the settings that compose.yaml takes from there, with the defaults that it gives them."""
    given = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (ROOT / "compose.yaml").read_text()))
    lines: list[str] = []
    for each in settings(model):
        if each.name in given:
            lines += textwrap.wrap(plain(each.description), 110, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"#{each.name}={given[each.name]}")
    return "\n".join(lines)


def settings(model: type[BaseSettings]) -> list[Setting]:
    """Return the settings of a model, in its order."""
    return [
        Setting(name.upper(), _written(field.default), _value(field), field.description or "") for name, field in model.model_fields.items()
    ]


def options() -> list[Setting]:
    """Return the settings that single options of commands take their values from."""
    return [
        Setting(param.envvar, _written(param.default), "", f"`{name} {param.opts[0]}`.")
        for name, command in commands().items()
        for param in command.params
        if param.envvar
    ]


def _written(default: object) -> str | None:
    return None if default is None else ":".join(default) if isinstance(default, tuple) else str(default)


def _value(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(field.annotation))
    bounds = ("ge", "gt", "le", "min_length", "max_length")
    found = {kind: getattr(each, kind) for each in field.metadata for kind in bounds if hasattr(each, kind)}
    low = f"{found['ge']:,}" if "ge" in found else f"above {found['gt']:,}" if "gt" in found else ""
    if "le" in found:
        return f"{low} to {found['le']:,}"
    if found.get("min_length", 1) > 1:
        return f"{found['min_length']} or more characters"
    if "max_length" in found:
        return f"up to {found['max_length']} characters"
    return f"{low} or more" if low else ""


def _default(default: str | None) -> str:
    return f"`{default}`" if default else "not set"


def _list(rows: list[Setting]) -> Iterator[str]:
    for each in rows:
        yield f"- `{each.name}` ({'; '.join(filter(None, [_default(each.default), each.value]))}): {each.description}"
