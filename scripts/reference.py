"""Writes the pages of docs/reference that are made from the code: error-codes.md from storage_ledger/domain/error_catalogue."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from storage_ledger.domain.error_catalogue.catalogue import SECTIONS
from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"

ERROR_CODES = """\
# Error codes

<!-- scripts/reference writes this page from storage_ledger/domain/error_catalogue: change it there. -->

Each code is stable: it stands in the ledger, in logs, metrics, `/readyz` and the commands, and is never renamed.
The text beside it is for people and may change.
No text quotes a value of a message, of a DICOM file or of a neighbour's answer.

`storage-ledger explain CODE` prints the same.
Where to look: `storage-ledger status` for what needs a person now, `storage-ledger show STUDY_ID` for one study,
`storage-ledger quarantine list` for what waits.
A code may stand in several sections: each says what it means there.
"""


def main() -> int:
    """Write the pages; with --check say which ones differ, and write nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when a page is not current")
    check = parser.parse_args().check
    stale = [name for name, text in pages().items() if (REFERENCE / name).read_text() != text]
    for name in stale:
        if check:
            print(f"docs/reference/{name} is not current: run scripts/reference", file=sys.stderr)
        else:
            (REFERENCE / name).write_text(pages()[name])
            print(f"docs/reference/{name}")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """The name of each page that is made here, and its text."""
    return {"error-codes.md": error_codes()}


def error_codes() -> str:
    """What each code means, section by section."""
    return "\n".join([ERROR_CODES, *(line for section in SECTIONS for line in _section(section))])


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield section.intro
    if section.meanwhile:
        yield f"\n{section.meanwhile}"
    if section.commands:
        yield "\n```sh"
        yield from section.commands
        yield "```"
    yield ""
    yield from _table(section.explanations)
    yield ""


def _table(explanations: tuple[Explanation, ...]) -> Iterator[str]:
    """A column that no code of the section fills is left out."""
    columns = {
        "code": [f"`{each.code}`" for each in explanations],
        "step": [", ".join(each.steps) for each in explanations],
        "means": [each.means for each in explanations],
        "meanwhile": [each.meanwhile for each in explanations],
        "what to do": [_to_do(each) for each in explanations],
    }
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    yield f"| {' | '.join(shown)} |"
    yield "|" + "---|" * len(shown)
    for cells in zip(*shown.values(), strict=True):
        yield f"| {' | '.join(cells)} |"


def _to_do(explanation: Explanation) -> str:
    """The commands of a quarantined file stand above the table."""
    return explanation.action if any("quarantine retry" in each for each in explanation.commands) else explanation.advice


if __name__ == "__main__":
    sys.exit(main())
