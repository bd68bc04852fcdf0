"""What the demo prints: the servers' addresses, the progress, the results, and what to try next."""

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
"""Seconds between progress lines if the output is not a terminal."""


def header(out: Console) -> None:
    """Print the title."""
    out.print("[bold]storage-ledger demo[/bold]: the real service on this machine, with made-up patients")
    out.print()


@contextmanager
def starting(out: Console) -> Iterator[None]:
    """Show a spinner while the servers start."""
    if out.is_terminal:
        with out.status("Starting the servers, creating DICOM files", spinner="line"):
            yield
    else:
        yield


def places(out: Console, rows: Mapping[str, str]) -> None:
    """Print the address of each server, and the folder."""
    grid = Table.grid(padding=(0, 2))
    for name, place in rows.items():
        grid.add_row(Text(name, style="bold"), Text(place, overflow="fold"))
    out.print(Padding(grid, (0, 0, 1, 2), expand=False))


class Archiving:
    """Shows the progress: two bars on a terminal, otherwise a line per second. Failures are printed immediately."""

    def __init__(self, out: Console, watch: Watch) -> None:
        self._out = out
        self._watch = watch
        self._began = time.monotonic()
        self._next_line = self._began + EVERY_S
        self._rate = 0.0
        self._printed_last = False
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
        """Show the bars while the `with` block runs."""
        if not self._out.is_terminal:
            yield
            return
        self._files = self._progress.add_task("[bold]Messages[/bold]", total=self._watch.messages, note="")
        self._statuses = self._progress.add_task("[bold]Statuses[/bold]", total=self._watch.studies, note="")
        with self._progress:
            yield

    def update(self, news: Sequence[str]) -> None:
        """Print the new lines and update the progress."""
        for line in news:
            self._progress.console.print(Text(f"  {line}", style="yellow", overflow="fold"))
        watch, now = self._watch, time.monotonic()
        if watch.outcomes < watch.messages - 1:  # waiting for the missing file would distort the rate
            self._rate = watch.outcomes / (now - self._began)
        rate = f"{self._rate:3.0f}/s" if self._rate else ""
        if self._files is not None and self._statuses is not None:
            self._progress.update(self._files, completed=watch.outcomes, note=f" {rate}  [yellow]{watch.troubles}[/yellow]")
            self._progress.update(self._statuses, completed=watch.settled, note=f" {_resent_note(watch)}")
        elif now >= self._next_line or (watch.is_done and not self._printed_last):
            self._next_line = now + EVERY_S
            self._printed_last = watch.is_done
            notes = "; ".join(part for part in (rate.strip(), watch.troubles, _resent_note(watch)) if part)
            self._out.print(
                f"{watch.outcomes}/{watch.messages} messages, {watch.settled}/{watch.studies} statuses" + (f"; {notes}" if notes else ""),
                soft_wrap=True,
            )


def happened(out: Console, figures: Figures, grace_s: float) -> None:
    """Print the number of studies for each outcome, with an explanation."""
    rows = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    rows.add_column("What happened", no_wrap=True)
    rows.add_column("Count", justify="right")
    rows.add_column("What it means")
    for style, name, count, meaning in (
        ("green", "archived", figures.archived,
         "Archived and verified, upload removed, status sent."),
        ("", "  of several files", figures.several, "Four files with one study_id: one folder."),
        ("", "  a broken file", figures.broken, "Truncated, header unreadable: archived as received."),
        ("", "  delivered twice", figures.twice, "The same message again: recorded, no second file."),
        ("", "  status re-sent", figures.told_again,
         "The descriptor had overwritten it with `described`."),
        ("yellow", "quarantined", figures.quarantined,
         f"No file within {grace_s:g} s: `failed`, needs manual review."),
        ("yellow", "rejected", figures.rejected, "The message is not JSON: recorded with its bytes."),
    ):  # fmt: skip
        rows.add_row(Text(name, style=style), str(count), Text(meaning))
    out.print()
    out.print(rows)
    out.print()
    out.print(
        f"{figures.dicom_studies} DICOM studies, {figures.patients} patients, {figures.modalities} modalities.\n"
        f"{figures.files} files ({figures.bytes / 1e6:.1f} MB) archived in {figures.seconds:.1f} s: {figures.files_per_s:.0f} per second."
    )


def verdict(out: Console, differences: Sequence[str]) -> None:
    """Print whether the results are as expected."""
    if not differences:
        out.print("[green]All as expected: every archived file matches what was sent.[/green]")
        return
    out.print("[bold red]Not as expected:[/bold red]")
    for line in differences[:20]:
        out.print(Text(f"  {line}", overflow="fold"))
    if len(differences) > 20:
        out.print(f"  and {len(differences) - 20} more")


def next_steps(out: Console, *, page: str | None, environment: Path, study_id: str) -> None:
    """Print the web page's address, and commands to copy and run. `page`: None if it is no longer served."""
    out.print()
    if page:
        out.print(Text.assemble("Web page  ", (page, "bold cyan underline"), "  no login, this machine only"))
        out.print()
    out.print("Try these in another terminal (the first line sets the demo's paths):" if page else "To inspect the data that was kept:")
    for command in (
        f". {shlex.quote(str(environment))}",
        f"storage-ledger show {study_id}",
        "storage-ledger status",
        "storage-ledger quarantine list",
    ):
        out.print(Text(f"  {command}", style="cyan"), soft_wrap=True)
    out.print()


def _resent_note(watch: Watch) -> str:
    return f"{len(watch.resent)} statuses re-sent" if watch.resent else ""
