"""Pages through all studies, for commands that take a long time."""

from __future__ import annotations

from collections.abc import Iterator

from storage_ledger.ledger.contract import Ledger

STUDIES_A_PAGE = 1000


def described_studies(ledger: Ledger, only: str | None = None) -> Iterator[str]:
    """Yield every study that was ever described (or `only` one study), in order of first entry. Holds one page in memory."""
    if only is not None:
        yield only
        return
    after = 0
    while page := ledger.first_of_studies(after, STUDIES_A_PAGE):
        yield from (study_id for _, study_id in page)
        after = page[-1][0]
