"""Line charts as SVG: panels below each other over one x axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 170, 64, 16, 30, 22
COLOURS = ("#1f6fb4", "#c8401f", "#2a8a3e", "#8a5bb0")

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart, from 0 up. `lines`: name → points; `marks`: x of the grey vertical lines."""

    title: str
    lines: dict[str, Line]
    marks: Sequence[float] = ()


def svg(panels: Sequence[Panel], x_title: str) -> str:
    """Return the document. The x axis begins at 0."""
    most_x = max(x for panel in panels for line in panel.lines.values() for x, _ in line)
    height = HEIGHT * len(panels) + BOTTOM
    parts = [f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    for number, panel in enumerate(panels):
        parts += _panel(panel, HEIGHT * number, most_x)
    parts.append(_text(WIDTH / 2, height - 4, x_title, "middle"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join((head, *parts, "</svg>\n"))


def _panel(panel: Panel, above: float, most_x: float) -> list[str]:
    most_y = _round_up(max((y for line in panel.lines.values() for _, y in line), default=1))
    top, bottom = above + TOP, above + HEIGHT - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / most_x, bottom - (bottom - top) * y / most_y

    parts = [_text(LEFT, above + 18, panel.title, "start", weight="bold")]
    parts += [f'<path d="M{at(x, 0)[0]:.1f} {top}V{bottom}" stroke="#bbb" stroke-width="2"/>' for x in panel.marks]
    for part in (0, 0.5, 1):
        x, y = at(part * most_x, part * most_y)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{part * most_y:,.5g}", "end"))
        parts.append(_text(x, bottom + 14, f"{part * most_x:,.4g}", "middle"))
    for number, (name, line) in enumerate(panel.lines.items()):
        points, colour = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line)), COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(WIDTH - RIGHT - 110 * (len(panel.lines) - 1 - number), above + 18, name, "end", colour))
    return parts


def _text(x: float, y: float, text: str, anchor: str, fill: str = "#333", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{escape(text)}</text>'


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 10, 20, 40, …"""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 10) if step * power >= value)
