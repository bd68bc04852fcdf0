"""Counts of days and kinds → the rectangles of a stacked bar chart. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = 6
"""The number of kinds that get a colour of their own; the others share one."""

REST = "other"
HEIGHT = 100.0


@dataclass(frozen=True, slots=True)
class BarPart:
    """One rectangle; `y` and `height` in hundredths of the chart's height, from the top. `colour`: index of its kind."""

    kind: str
    count: int
    colour: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One day."""

    day: str
    count: int
    parts: tuple[BarPart, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """`top`: number of files at full height. `kinds`: each with its total, largest first."""

    bars: tuple[Bar, ...]
    kinds: tuple[tuple[str, int], ...]
    top: int

    @property
    def total(self) -> int:
        """Return the number of files on all days."""
        return sum(bar.count for bar in self.bars)


def stacked(days: Sequence[str], counts: Iterable[tuple[str, str, int]]) -> Chart:
    """Return a bar for each of `days`; `counts` are (day, kind, count)."""
    counts = list(counts)
    sums: Counter[str] = Counter()
    for _, kind, count in counts:
        sums[kind] += count
    own = [kind for kind, _ in sums.most_common(KINDS if len(sums) <= KINDS else KINDS - 1)]
    by_day: dict[str, Counter[str]] = {day: Counter() for day in days}
    for day, kind, count in counts:
        if day in by_day:
            by_day[day][kind if kind in own else REST] += count
    kinds = [*own, REST] if len(sums) > len(own) else own
    top = _round_up(max((each.total() for each in by_day.values()), default=0))
    bars = tuple(Bar(day, found.total(), _parts(found, kinds, top)) for day, found in by_day.items())
    totals = tuple((kind, sum(found[kind] for found in by_day.values())) for kind in kinds)
    return Chart(bars, totals, top)


def _parts(found: Counter[str], kinds: Sequence[str], top: int) -> tuple[BarPart, ...]:
    parts = []
    y = HEIGHT
    for number, kind in enumerate(kinds):
        if count := found[kind]:
            height = HEIGHT * count / top
            y -= height
            parts.append(BarPart(kind, count, number, round(y, 3), round(height, 3)))
    return tuple(parts)


def _round_up(count: int) -> int:
    """Round up to 1, 2 or 5 times a power of ten."""
    step = 1
    while True:
        for digit in (1, 2, 5):
            if digit * step >= count:
                return digit * step
        step *= 10
