"""The plan of a replay and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from storage_ledger.errors import StorageLedgerError
from storage_ledger.operations.unresolved_problems import Problems


class ReplayPart(StrEnum):
    """The things that can be re-created from the ledger, in the order in which that is done."""

    MIRROR = "mirror"
    FILES = "files"
    METADATA = "metadata"
    INDEX = "index"
    STATUSES = "statuses"


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The options of a replay.

    `force_mirror`: rewrite the mirror even if it is good; `study`: restrict the replay to this study; `rate`: statuses per second;
    `by` and `reason`: who asked for files to be restored, and why.
    """

    parts: frozenset[ReplayPart]
    sources: tuple[Path, ...] = ()
    study: str | None = None
    dry_run: bool = False
    rate: float = 100.0
    force_mirror: bool = False
    by: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class ReplayCounts:
    """The counts of one part. `mended`: repaired; `left`: could not be repaired, see the problems.

    These and `looked_at` count archived files, metadata.json files, entries (of index or mirror) or statuses, depending on the
    part; `bytes`: of the repaired ones. The names are those of the JSON output.
    """

    looked_at: int = 0
    mended: int = 0
    left: int = 0
    bytes: int = 0


@dataclass(slots=True)
class ReplayReport:
    """The result. `position`: of the ledger at the start; `error`: what ended the replay early, during the part `ended_in`."""

    problems: Problems
    position: int = 0
    counts: dict[ReplayPart, ReplayCounts] = field(default_factory=dict)
    error: StorageLedgerError | None = None
    ended_in: ReplayPart | None = None
