"""How long commands show that they go on: a bar on a terminal, a line every ten seconds elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from storage_ledger.cli.output import size as in_words

LINE_EVERY_S = 10.0


class Show(Protocol):
    """Told how many are done by now and, where it is known, how many bytes that were."""

    def __call__(self, done: int, size: int | None = None) -> None:
        """See above."""
        ...


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Show]:
    """Give a function that is told how many are done by now. `total` None: nobody knows how many there will be."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit + "{task.fields[rate]}"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, rate="")
            began = time.monotonic()

            def show(done: int, size: int | None = None) -> None:
                bar.update(task, completed=done, rate=_rate(done, size, began))

            yield show
        return
    began = last = time.monotonic()

    def tell(done: int, size: int | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            of = f" of {total:,}" if total is not None else ""
            left = f", {_duration((last - began) * (total - done) / done)} left" if total and 0 < done <= total else ""
            print(f"{title}: {done:,}{of} {unit}{_rate(done, size, began)}{left}", file=sys.stderr, flush=True)

    yield tell


@contextmanager
def in_steps(titles: Mapping[str, tuple[str, str]]) -> Iterator[Callable[[str, int, int], None]]:
    """For work of several steps, each with a title and a unit: give a function that is told step, how much is done, and of how much."""
    with ExitStack() as opened:
        current = ""
        show: Callable[[int], None] = lambda _: None  # noqa: E731 - until the first step begins

        def tell(step: str, done: int, total: int) -> None:
            nonlocal current, show
            if step != current:
                opened.close()
                current = step
                title, unit = titles[step]
                show = opened.enter_context(progress(title, total, unit))
            show(done)

        yield tell


@dataclass(frozen=True, slots=True)
class Step:
    """One look at a work of several parts: how many are done of how many (None: nobody knows), and bytes where bytes count."""

    title: str
    done: int
    total: int | None
    unit: str
    bytes: int = 0
    total_bytes: int | None = None


@contextmanager
def steps() -> Iterator[Callable[[Step], None]]:
    """Give a function that is told of each step; one part begins where another title comes. By bytes where bytes count."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None, text="")
            title, began = "", 0.0

            def show(step: Step) -> None:
                nonlocal title, began
                if step.title != title:
                    title, began = step.title, time.monotonic()
                    bar.reset(task, total=None, description=title)
                by_bytes = step.total_bytes is not None
                total, done = (step.total_bytes, step.bytes) if by_bytes else (step.total, step.done)
                bar.update(task, total=total, completed=done, text=_text(step, time.monotonic() - began))

            yield show
        return
    title, began = "", 0.0
    last = time.monotonic()

    def tell(step: Step) -> None:
        nonlocal title, began, last
        now = time.monotonic()
        if step.title != title:
            title, began = step.title, now
        if now - last >= LINE_EVERY_S:
            last = now
            print(f"{step.title}: {_text(step, now - began)}{_left(step, now - began)}", file=sys.stderr, flush=True)

    yield tell


def _text(step: Step, seconds: float) -> str:
    of = f" of {step.total:,}" if step.total is not None else ""
    text = f"{step.done:,}{of} {step.unit}"
    if step.bytes:
        text += f", {in_words(step.bytes)}" + (f" of {in_words(step.total_bytes)}" if step.total_bytes is not None else "")
        return text + (f", {in_words(step.bytes / seconds)}/s" if seconds > 1 else "")
    return text + (f", {step.done / seconds:,.0f}/s" if seconds > 1 else "")


def _left(step: Step, seconds: float) -> str:
    total, done = (step.total_bytes, step.bytes) if step.total_bytes else (step.total, step.done)
    if not total or done <= 0 or seconds < 1:
        return ""
    left = max(0, round(seconds * (total - done) / done))
    return f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def _rate(done: int, size: int | None, began: float) -> str:
    seconds = time.monotonic() - began
    rate = f", {done / seconds:,.0f}/s" if seconds > 1 else ""
    if size is None:
        return rate
    return f"{rate}, {in_words(size)}" + (f", {in_words(size / seconds)}/s" if seconds > 1 else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
