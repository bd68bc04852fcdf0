"""The progress and the result of a verification."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage_ledger.operations.verify.files import FileCounts
from storage_ledger.operations.verify.findings import Findings


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """The progress of one part. `total` None: unknown. `bytes`, `total_bytes`: for the part `files`; else 0 and None."""

    part: str
    done: int
    total: int | None = None
    bytes: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """`count`: how many checkpoints today's entries continue; `size`: of the largest of them, in entries."""

    count: int = 0
    size: int = 0


@dataclass(slots=True)
class VerifyReport:
    """The result. `up_to`: the ledger's position at the start, up to which everything was checked; `parts`: what was checked.

    `checkpoints`: those that today's entries continue. `recorded`: positions of the `verified` entries; `not_recorded`: why
    recording stopped. `interrupted`: it was stopped before everything was checked.
    """

    began: str
    up_to: int = 0
    parts: list[str] = field(default_factory=list)
    counts: FileCounts = field(default_factory=FileCounts)
    checkpoints: Agreement = field(default_factory=Agreement)
    found: Findings = field(default_factory=Findings)
    recorded: list[int] = field(default_factory=list)
    not_recorded: str | None = None
    interrupted: bool = False
