"""Progress of long commands on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from storage_ledger.cli.output import size

if TYPE_CHECKING:
    from storage_ledger.operations.progress import ShowProgress

LINE_EVERY_S = 10.0
UNTIL_A_RATE_S = 1.0  # an earlier rate would be a guess


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of one part of a command: `done` of `total` (None: unknown).

    `bytes` is shown as well; where `total_bytes` is set, the time left follows from the bytes. With the unit "bytes", `done` counts bytes.
    """

    title: str
    unit: str
    done: int
    total: int | None
    bytes: int = 0
    total_bytes: int | None = None


@contextmanager
def steps() -> Iterator[Callable[[Step], None]]:
    """Yield a function that shows a step. A new title begins a new part. Nothing is shown before the first step."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    shown = _Bar()
    try:
        yield shown.tell
    finally:
        shown.bar.stop()


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[ShowProgress]:
    """Yield a function that shows how many units of one part are done."""
    with steps() as tell:

        def show(done: int, size: int | None = None) -> None:
            tell(Step(title, unit, done, total, size or 0))

        yield show


class _Part:
    """The current part and when it began."""

    def __init__(self) -> None:
        self.title = ""
        self.began = 0.0

    def follow(self, step: Step) -> bool:
        """Return whether this step begins a new part."""
        if step.title == self.title:
            return False
        self.title, self.began = step.title, time.monotonic()
        return True

    def seconds(self) -> float:
        return time.monotonic() - self.began


class _Bar:
    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self.bar.add_task("", total=None, text="")
        self._part = _Part()

    def tell(self, step: Step) -> None:
        self.bar.start()  # not earlier: the command may first ask something on the terminal
        if self._part.follow(step):
            self.bar.reset(self._task, total=None, description=step.title, text="")
        done, total = _measure(step)
        self.bar.update(self._task, total=total, completed=done, text=text(step, self._part.seconds()))


class _Lines:
    def __init__(self) -> None:
        self._part = _Part()
        self._last = time.monotonic()

    def tell(self, step: Step) -> None:
        self._part.follow(step)
        if time.monotonic() - self._last < LINE_EVERY_S:
            return
        self._last, seconds = time.monotonic(), self._part.seconds()
        print(f"{step.title}: {text(step, seconds)}{left(step, seconds)}", file=sys.stderr, flush=True)


def _measure(step: Step) -> tuple[int, int | None]:
    """Return what the time left follows from: the amount done and the total."""
    return (step.bytes, step.total_bytes) if step.total_bytes is not None else (step.done, step.total)


def text(step: Step, seconds: float) -> str:
    """Return, for example, `1,200 of 5,000 files, 60/s, 1.2 GB of 5.0 GB, 60.0 MB/s`; without rates in the first second."""
    if step.unit == "bytes":
        return _amount(step.done, step.total, "", seconds, size)
    text = _amount(step.done, step.total, f" {step.unit}", seconds, lambda count: f"{count:,.0f}")
    return text + (f", {_amount(step.bytes, step.total_bytes, '', seconds, size)}" if step.bytes else "")


def _amount(done: int, total: int | None, unit: str, seconds: float, words: Callable[[float], str]) -> str:
    of = f" of {words(total)}" if total is not None else ""
    rate = f", {words(done / seconds)}/s" if seconds > UNTIL_A_RATE_S else ""
    return f"{words(done)}{of}{unit}{rate}"


def left(step: Step, seconds: float) -> str:
    """Return the time left as text to append, such as `, 0:12:30 left`; empty if it is unknown."""
    done, total = _measure(step)
    if not total or not 0 < done <= total or seconds < UNTIL_A_RATE_S:
        return ""
    seconds_left = round(seconds * (total - done) / done)
    return f", {seconds_left // 3600}:{seconds_left // 60 % 60:02}:{seconds_left % 60:02} left"
