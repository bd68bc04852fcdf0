"""What a verification reports: its progress, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage_ledger.operations.verify.files import FileCounts
from storage_ledger.operations.verify.findings import Findings


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far one part is. `total` None: unknown. `bytes` and `total_bytes`: of files; 0 and None for the other parts."""

    part: str
    done: int
    total: int | None = None
    bytes: int = 0
    total_bytes: int | None = None


@dataclass(slots=True)
class VerifyReport:
    """The result. `up_to`: the position by which everything was judged. `parts`: what was checked, whole or in part.

    `recorded`: positions of the `verified` entries; `not_recorded`: why there are none, or no more. `interrupted`: it was
    stopped before everything was checked.
    """

    began: str
    up_to: int = 0
    parts: list[str] = field(default_factory=list)
    counts: FileCounts = field(default_factory=FileCounts)
    found: Findings = field(default_factory=Findings)
    recorded: list[int] = field(default_factory=list)
    not_recorded: str | None = None
    interrupted: bool = False
