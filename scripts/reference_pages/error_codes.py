"""error-codes.md, from storage_ledger/domain/error_catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from storage_ledger.domain.error_catalogue.catalogue import SECTIONS
from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

HEAD = """\
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


def page() -> str:
    """What each code means, section by section."""
    return "\n".join([HEAD, *(line for section in SECTIONS for line in _section(section))])


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
