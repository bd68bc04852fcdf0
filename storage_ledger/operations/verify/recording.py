"""What one `verified` entry is about: so much was read, and this was found."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage_ledger import __version__
from storage_ledger.domain.payloads import VerifiedCounts, VerifiedPayload, VerifiedScope
from storage_ledger.operations.verify.files import Counts
from storage_ledger.operations.verify.findings import Finding

PORTION_FILES = 10_000
PORTION_FINDINGS = 500
PORTION_RANGES = 1000
ENTRY_FINDINGS = 1000
"""What one `verified` entry tells at most: so it stays small, and what was read before a kill stays known."""


@dataclass(slots=True)
class Portion:
    """What one `verified` entry is about."""

    ranges: list[list[int]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    damaged: list[Finding] = field(default_factory=list)
    unchecked: list[Finding] = field(default_factory=list)
    more: int = 0

    def take(self, found: Finding, damaged: bool) -> None:
        """A finding. Those of files are all kept: the index goes by them."""
        kept = self.damaged if damaged else self.unchecked
        if found.part == "archive" or len(kept) < ENTRY_FINDINGS:
            kept.append(found)
        else:
            self.more += 1

    def add(self, position: int, counts: Counts, *, alone: bool) -> None:
        """A file that was read."""
        self.counts.add(counts)
        if alone or not self.ranges:
            self.ranges.append([position, position])
        else:
            self.ranges[-1][1] = position

    @property
    def has_something(self) -> bool:
        """Whether an entry would say anything."""
        return bool(self.ranges or self.damaged or self.unchecked)

    @property
    def is_full(self) -> bool:
        """Whether it is to be recorded now."""
        return (
            self.counts.files >= PORTION_FILES
            or len(self.damaged) + len(self.unchecked) >= PORTION_FINDINGS
            or len(self.ranges) >= PORTION_RANGES
        )


def payload_of(by: str, began: str, scope: VerifiedScope, portion: Portion, *, complete: bool) -> VerifiedPayload:
    """Of a `verified` entry."""
    return VerifiedPayload(
        by=by,
        began=began,
        scope=scope,
        counts=VerifiedCounts(
            files=portion.counts.files,
            intact=portion.counts.intact,
            damaged=portion.counts.damaged,
            unchecked=portion.counts.unchecked,
            bytes=portion.counts.bytes,
            findings=len(portion.damaged) + portion.more,
        ),
        findings=[found.stored() for found in portion.damaged],
        unchecked=[found.stored() for found in portion.unchecked],
        complete=complete,
        software=__version__,
    )
