"""Finds phrases in everything that people read for which plain English has a better word."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import prose

INSTEAD = {
    r"anew": "again; or say rebuilt, re-created",
    r"so (many|much|fast|long)\b(?! that)": "up to, at this rate, for this long",
    r"(for|to|by|from|with|than) who": "name the reader: an operator, a program",
    r"who (only )?looks?": "name the reader: an operator, a program",
    r"what (lies|lie|lay|hangs|stands)": "what is",
    r"(?<!to )(lies|lie|lay) (in|there|below|beside|beyond|under|on|at|outside|idle)": "is",
    r"(is|are|was|were|be|been|being) told(?! apart)": "sent, re-sent, reported",
    r"told again": "re-sent",
    r"in vain": "failed",
    r"mend(s|ed|ing)?": "repair, fix",
    r"(made|make|makes|making) again": "rebuild, re-create",
    r"(made|make|makes|making) up for": "recover",
    r"(stands|stand|stood) (in|on|at|there|beside|behind|below|above)": "is in",
    r"(goes|go|went|going|gone) on": "continue",
    r"(wait|waits|waited|waiting) for (a person|somebody)|needs? a person": "needs manual review",
    r"of which": "begin a new sentence",
    r"(?<!so )that one(?= (is|was|has|does)\b|[.,;:)]|$)": "repeat the noun",
    r"it is said|is said to": "say who says it",
    r"amounts? to": "is",
    r"as it should be": "expected",
}
PATTERNS = {re.compile(rf"\b(?:{phrase})(?!\w)", re.IGNORECASE): instead for phrase, instead in INSTEAD.items()}


def main() -> int:
    """Print each phrase with its place; exit with 1 if there is one."""
    pieces = [piece for piece in prose.everything() if piece.path.name != "plain_words.py"]
    wrong = [f"{piece}: {phrase!r}: {instead}" for piece in pieces for phrase, instead in found(piece.text)]
    print(*wrong or ["plain words"], sep="\n")
    return 1 if wrong else 0


def found(text: str) -> Iterator[tuple[str, str]]:
    """Each phrase of a text that has a plainer one, and the plainer one."""
    for pattern, instead in PATTERNS.items():
        yield from ((match[0], instead) for match in pattern.finditer(text))


if __name__ == "__main__":
    sys.exit(main())
