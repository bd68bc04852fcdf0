"""Writes the pages of docs/reference that are generated from the code; scripts/reference_pages has one module for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from reference_pages import entry_kinds, error_codes, metrics, tables

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "entry-kinds.md": entry_kinds.page,
    "error-codes.md": error_codes.page,
    "metrics.md": metrics.page,
    "tables.md": tables.page,
}


def main() -> int:
    """Write the pages; with --check, only report the ones that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = {name: text for name, text in pages().items() if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != text}
    for name, text in stale.items():
        if check:
            print(f"docs/reference/{name} is out of date: run scripts/reference", file=sys.stderr)
        else:
            (REFERENCE / name).write_text(text)
            print(f"docs/reference/{name}")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """The name of each generated page, and its current text."""
    return {name: page() for name, page in PAGES.items()}


if __name__ == "__main__":
    sys.exit(main())
