"""Writes the pages of docs/reference, and blocks of other files, that are generated from the code.

scripts/reference_pages has one module for each page.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from reference_pages import commands, entry_kinds, error_codes, metrics, outages, settings, tables

from storage_ledger.settings import Settings
from storage_ledger.web.auth.credentials import BrowseSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[str, Callable[[], str]] = {
    "../how-to/outages.md": outages.page,
    "commands.md": commands.page,
    "entry-kinds.md": entry_kinds.page,
    "error-codes.md": error_codes.page,
    "metrics.md": metrics.page,
    "settings.md": settings.page,
    "tables.md": tables.page,
}
"""The pages of docs/reference."""
BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"settings": settings.readme_table, "commands": commands.readme_table},
    ".env.example": {
        "service settings": partial(settings.env_example, Settings),
        "web page settings": partial(settings.env_example, BrowseSettings),
    },
}
"""Blocks of other files, by their names: each is between the lines `<!-- NAME: written by scripts/reference -->` and `<!-- end -->`."""


def main() -> int:
    """Write the files; with --check, only report the ones that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    stale = {name: text for name, text in texts().items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text}
    for name, text in stale.items():
        if check:
            print(f"{name} is out of date: run scripts/reference", file=sys.stderr)
        else:
            (ROOT / name).write_text(text)
            print(name)
    return 1 if check and stale else 0


def texts() -> dict[str, str]:
    """The path of each file with generated text, and its current text."""
    found = {f"docs/reference/{name}": page() for name, page in PAGES.items()}
    for name, blocks in BLOCKS.items():
        found[name] = (ROOT / name).read_text()
        for block, text in blocks.items():
            found[name] = _with_block(found[name], block, text())
    return found


def _with_block(text: str, name: str, block: str) -> str:
    """Replace the text between the markers; a file without them is an error. Markers begin with `#` where `<!--` is not a comment."""
    marked = re.compile(
        rf"(^(?:<!--|#) {name}: written by scripts/reference(?: -->)?\n).*?(^(?:<!--|#) end(?: -->)?$)", re.MULTILINE | re.DOTALL
    )
    replaced, count = marked.subn(lambda found: f"{found[1]}{block}\n{found[2]}", text)
    if count != 1:
        raise SystemExit(f"found {count} blocks {name!r}; there must be one")
    return replaced


if __name__ == "__main__":
    sys.exit(main())
