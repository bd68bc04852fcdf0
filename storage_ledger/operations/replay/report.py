"""What a replay is asked to do, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from storage_ledger.errors import StorageLedgerError
from storage_ledger.operations.unresolved_problems import Problems


class ReplayPart(StrEnum):
    """What can be re-created from the ledger, in the order in which it is done."""

    MIRROR = "mirror"
    FILES = "files"
    METADATA = "metadata"
    INDEX = "index"
    STATUSES = "statuses"


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What to do. `mirror_anew`: rewrite the mirror even if there is one; `study`: only this one; `rate`: statuses per second."""

    parts: frozenset[ReplayPart]
    sources: tuple[Path, ...] = ()
    study: str | None = None
    dry_run: bool = False
    rate: float = 100.0
    mirror_anew: bool = False


@dataclass(slots=True)
class ReplayCounts:
    """The counts of one part. `mended`: correct now, and not before; `left`: could not be corrected, see the problems.

    Both and `looked_at` count files, metadata.json of studies, entries of index and mirror, or statuses; `bytes`: of those mended.
    The names are those of the JSON output.
    """

    looked_at: int = 0
    mended: int = 0
    left: int = 0
    bytes: int = 0


@dataclass(slots=True)
class ReplayReport:
    """The result. `position`: of the ledger at the start; `error`: what ended the replay early, while it did `ended_in`."""

    problems: Problems
    position: int = 0
    counts: dict[ReplayPart, ReplayCounts] = field(default_factory=dict)
    error: StorageLedgerError | None = None
    ended_in: ReplayPart | None = None
