"""What more processors would do: a model made of measured parts, until somebody measures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from opponents import Run
from results import Table

PROCESSORS = (2, 4, 8, 16)
ASSUMED = (
    "The model: studies/s = the least of processors / (first process + worker), 1 / first process, and 1 / write lock. It assumes a worker "
    "a processor (WORKERS), publisher, Redis and Status Service on another machine, a disk that keeps up, and that a study costs no more "
    "CPU and holds the lock no longer with more workers. In brackets: what limits."
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a study costs, in ms: CPU of the first process (intake, mirror, index), CPU of its worker, and the ledger's write lock."""

    first_ms: float
    worker_ms: float
    lock_ms: float

    @classmethod
    def of(cls, runs: Sequence[Run], studies: int) -> Parts:
        """Medians of these runs."""
        first, workers, lock = zip(*((run.first_cpu_s, run.cpu_s - run.first_cpu_s, run.lock_s) for run in runs), strict=True)
        return cls(*(1000 * statistics.median(each) / studies for each in (first, workers, lock)))

    def rate(self, processors: int) -> tuple[float, str]:
        """Return studies/s and what limits them."""
        limits = {
            "processors": 1000 * processors / (self.first_ms + self.worker_ms),
            "first process": 1000 / self.first_ms,
            "write lock": 1000 / self.lock_ms if self.lock_ms else float("inf"),
        }
        name = min(limits, key=lambda each: limits[each])
        return limits[name], name


def table(measured: Sequence[tuple[str, Parts, float]]) -> Table:
    """Return what each case costs, its measured studies/s, and those of the model."""
    heads = [f"{processors} processors" for processors in PROCESSORS]
    found = Table("", ("files", "first process", "worker", "write lock", "measured here", *heads), notes=[ASSUMED], place="model")
    for label, parts, rate in measured:
        modelled = (parts.rate(processors) for processors in PROCESSORS)
        costs = (f"{each:.2f} ms" for each in (parts.first_ms, parts.worker_ms, parts.lock_ms))
        found.rows.append((label, *costs, f"{rate:,.0f}/s", *(f"{a_second:,.0f}/s ({limit})" for a_second, limit in modelled)))
    return found
