"""What the demo prints: which server runs where, the progress, what happened, what to try next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from storage_ledger.demo.expected_outcomes import Figures, Watch

EVERY_S = 1.0
"""How often a line is printed where there is no terminal to draw bars on."""


def header(out: Console) -> None:
    """The first line: what this is."""
    out.print("[bold]storage-ledger demo[/bold]: the real service on this machine, with made-up patients")
    out.print()


@contextmanager
def starting(out: Console) -> Iterator[None]:
    """Something moves while the servers start."""
    if out.is_terminal:
        with out.status("Starting the servers, making DICOM files", spinner="line"):
            yield
    else:
        yield


def places(out: Console, rows: Mapping[str, str]) -> None:
    """Which server runs where."""
    grid = Table.grid(padding=(0, 2))
    for name, place in rows.items():
        grid.add_row(Text(name, style="bold"), Text(place, overflow="fold"))
    out.print(Padding(grid, (0, 0, 1, 2), expand=False))


class Archiving:
    """The progress: two bars on a terminal, a line a second elsewhere. What fails is said at once."""

    def __init__(self, out: Console, watch: Watch) -> None:
        self._out = out
        self._watch = watch
        self._began = time.monotonic()
        self._next_line = self._began + EVERY_S
        self._rate = 0.0
        self._said_all = False
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, complete_style="green", finished_style="green"),
            TextColumn("{task.completed:>3}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            console=out,
            expand=True,
        )
        self._files: TaskID | None = None
        self._statuses: TaskID | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw while the `with` runs."""
        if not self._out.is_terminal:
            yield
            return
        self._files = self._progress.add_task("[bold]Messages[/bold]", total=self._watch.messages, note="")
        self._statuses = self._progress.add_task("[bold]Statuses[/bold]", total=self._watch.studies, note="")
        with self._progress:
            yield

    def update(self, news: Sequence[str]) -> None:
        """Show the progress after each look at the ledger."""
        for line in news:
            self._progress.console.print(Text(f"  {line}", style="yellow", overflow="fold"))
        watch, now = self._watch, time.monotonic()
        if watch.outcomes < watch.messages - 1:  # the one whose file never comes would spoil the rate
            self._rate = watch.outcomes / (now - self._began)
        rate = f"{self._rate:3.0f}/s" if self._rate else ""
        if self._files is not None and self._statuses is not None:
            self._progress.update(self._files, completed=watch.outcomes, note=f" {rate}  [yellow]{watch.troubles}[/yellow]")
            self._progress.update(self._statuses, completed=watch.settled, note=f" {_again(watch)}")
        elif now >= self._next_line or (watch.is_done and not self._said_all):
            self._next_line = now + EVERY_S
            self._said_all = watch.is_done
            notes = "; ".join(part for part in (rate.strip(), watch.troubles, _again(watch)) if part)
            self._out.print(
                f"{watch.outcomes}/{watch.messages} messages, {watch.settled}/{watch.studies} statuses" + (f"; {notes}" if notes else ""),
                soft_wrap=True,
            )


def happened(out: Console, figures: Figures, grace_s: float) -> None:
    """What became of it all, by outcome, with an explanation each."""
    rows = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    rows.add_column("What happened", no_wrap=True)
    rows.add_column("Studies", justify="right")
    rows.add_column("What it means")
    for style, name, count, meaning in (
        ("green", "archived", figures.archived,
         "Each file byte for byte, metadata.json beside it; the upload removed, the Status Service told."),
        ("", "  of several files", figures.several, "4 files under one study_id: one folder."),
        ("", "  a broken file", figures.broken, "Cut off, the descriptor could not read it: kept as it came."),
        ("", "  delivered twice", figures.twice, "The same message again: recorded, no second file."),
        ("", "  told again", figures.told_again,
         "The descriptor's late `described` had overwritten it: read back, told again."),
        ("yellow", "quarantined", figures.quarantined,
         f"Its file did not come within {grace_s:g} s: told as `failed`, waits for a person."),
        ("yellow", "rejected", figures.rejected, "A message that is no JSON: recorded with its bytes."),
    ):  # fmt: skip
        rows.add_row(Text(name, style=style), str(count), Text(meaning))
    out.print()
    out.print(rows)
    out.print()
    out.print(
        f"{figures.files} files, {figures.bytes / 1e6:.1f} MB: {figures.dicom_studies} DICOM studies of {figures.patients} patients, "
        f"{figures.modalities} modalities; archived in {figures.seconds:.1f} s, {figures.files_per_s:.0f} files a second."
    )


def verdict(out: Console, differences: Sequence[str]) -> None:
    """Whether that is what should have happened."""
    if not differences:
        out.print("[green]All as it should be: every archived file was compared with what was sent.[/green]")
        return
    out.print("[bold red]Not as it should be:[/bold red]")
    for line in differences[:20]:
        out.print(Text(f"  {line}", overflow="fold"))
    if len(differences) > 20:
        out.print(f"  and {len(differences) - 20} more")


def next_steps(out: Console, *, page: str | None, environment: Path, study_id: str) -> None:
    """The address of the page, and commands that work as they are printed. `page`: None when it is not served any more."""
    out.print()
    if page:
        out.print(Text.assemble("Web page  ", (page, "bold cyan underline"), "  no login, for this machine only"))
        out.print()
    out.print("Try next, in another terminal; the first line says where the demo's ledger is:" if page else "To look at what is left:")
    for command in (
        f". {shlex.quote(str(environment))}",
        f"storage-ledger show {study_id}",
        "storage-ledger status",
        "storage-ledger quarantine list",
    ):
        out.print(Text(f"  {command}", style="cyan"), soft_wrap=True)
    out.print()


def _again(watch: Watch) -> str:
    return f"{len(watch.told_again)} told again" if watch.told_again else ""
