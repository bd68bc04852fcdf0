"""Record the results of a verification as `verified` entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from storage_ledger import __version__
from storage_ledger.domain.payloads import VerifiedCounts, VerifiedPayload, VerifiedScope
from storage_ledger.errors import MIRROR_LAGS, LedgerError, Retryable
from storage_ledger.operations.verify.files import FileCounts
from storage_ledger.operations.verify.findings import Finding
from storage_ledger.operations.verify.report import VerifyReport
from storage_ledger.operations.verify.selection import VerifyOptions

PORTION_FILES = 10_000
PORTION_FINDINGS = 500
PORTION_RANGES = 1000
ENTRY_FINDINGS = 1000
"""Limits for one `verified` entry: entries stay small, and a kill loses only the results since the last one."""

_OTHER_HISTORY = frozenset({"checkpoint-mismatch", "checkpoint-ahead"})

Append = Callable[[VerifiedPayload], int]
"""Appends a `verified` entry with this payload, and returns its position."""


@dataclass(slots=True)
class Portion:
    """The results that go into one `verified` entry."""

    ranges: list[list[int]] = field(default_factory=list)
    counts: FileCounts = field(default_factory=FileCounts)
    damaged: list[Finding] = field(default_factory=list)
    unchecked: list[Finding] = field(default_factory=list)
    more: int = 0

    def take(self, found: Finding, damaged: bool) -> None:
        """Add a finding. All findings about files are kept, because the index needs them."""
        kept = self.damaged if damaged else self.unchecked
        if found.part == "archive" or len(kept) < ENTRY_FINDINGS:
            kept.append(found)
        else:
            self.more += 1

    def add(self, position: int, counts: FileCounts, *, alone: bool) -> None:
        """Add a checked file. `alone`: the file before it was not checked, so a new range begins."""
        self.counts.add(counts)
        if alone or not self.ranges:
            self.ranges.append([position, position])
        else:
            self.ranges[-1][1] = position

    @property
    def has_something(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.ranges or self.damaged or self.unchecked)

    @property
    def is_full(self) -> bool:
        """Whether it is large enough to be recorded now."""
        return (
            self.counts.files >= PORTION_FILES
            or len(self.damaged) + len(self.unchecked) >= PORTION_FINDINGS
            or len(self.ranges) >= PORTION_RANGES
        )


class Recording:
    """Appends the `verified` entries of one verification, each with the results since the one before.

    Findings are taken from the report as they are added to it; files are passed to `add`. `append` None: record nothing.
    """

    def __init__(self, append: Append | None, report: VerifyReport, options: VerifyOptions) -> None:
        self._append = append
        self._report = report
        self._options = options
        self._portion = Portion()
        report.found.on_found = self._portion.take

    def add(self, position: int, counts: FileCounts, *, alone: bool) -> None:
        """Add a checked file, and append an entry if there is enough for one. `alone`: the file before it was not checked."""
        self._portion.add(position, counts, alone=alone)
        if self._portion.is_full:
            self._close(complete=False)

    def end_if_damaged(self) -> None:
        """Stop recording if ledger or mirror is damaged, or another history: a new entry could make the damage worse."""
        found = self._report.found.damaged
        if self._append is not None and any(
            (each.part in {"ledger", "mirror"} and each.code != MIRROR_LAGS) or each.code in _OTHER_HISTORY for each in found
        ):
            self._append = None
            self._report.not_recorded = "ledger or mirror is damaged, or does not continue a checkpoint, so nothing is appended"

    def finish(self) -> None:
        """Append the last entry; after an interruption, only if there is anything to record."""
        if not self._report.interrupted or self._portion.has_something:
            self._close(complete=not self._report.interrupted)

    def _close(self, *, complete: bool) -> None:
        if self._append is None:
            return
        portion, report = self._portion, self._report
        self._portion = Portion()
        report.found.on_found = self._portion.take
        scope = VerifiedScope(
            parts=["files"] if portion.ranges and not complete else [*report.parts],
            selection=self._options.selection,
            up_to=report.up_to,
            ranges=portion.ranges,
            study_id=self._options.study_id,
        )
        try:
            report.recorded.append(self._append(payload_of("verify", report.began, scope, portion, complete=complete)))
        except (LedgerError, Retryable) as error:
            report.not_recorded = f"{error.code}: {error.detail}"
            self._append = None


def payload_of(by: str, began: str, scope: VerifiedScope, portion: Portion, *, complete: bool) -> VerifiedPayload:
    """Return the payload of a `verified` entry for a portion."""
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
