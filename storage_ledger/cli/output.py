"""Output of the commands: tables for people, JSON for programs. Text from outside cannot control the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from storage_ledger.domain.error_catalogue.catalogue import explained
from storage_ledger.domain.error_catalogue.explanation import Section, plain
from storage_ledger.domain.ids import instant

if TYPE_CHECKING:
    from storage_ledger.errors import StorageLedgerError
    from storage_ledger.operations.unresolved_problems import Problems


UNFOLDED = 100_000
NARROWEST_TEXT = 24
"""Columns of text that wraps are at least this wide, or as wide as the longest text."""


def console() -> Console:
    """Return a console on standard output. Without a terminal, the output is plain and long lines are not wrapped."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else UNFOLDED)


def print_json(document: object) -> None:
    """Print one indented JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def safe(value: object) -> Text:
    """Return the text without rich markup, and with control characters replaced."""
    text = "" if value is None else str(value)
    return Text("".join(char if char.isprintable() else "�" for char in text))


def print_table(out: Console, headings: Sequence[str], rows: Sequence[Sequence[object]], *, wraps: str) -> None:
    """Print the rows, each cell made `safe`; without rows, nothing. Columns that are empty in all rows are left out.

    Only the column `wraps` takes several lines, between words. So that no code, id or time is broken, each row becomes a block of
    lines, one for each cell, where the console is too narrow for that.
    """
    if not rows:
        return
    cells = [[safe(cell) for cell in row] for row in rows]
    shown = [number for number in range(len(headings)) if any(row[number].cell_len for row in cells)]
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    narrowest = 2 * (len(shown) - 1)
    for number in shown:
        heading, column = headings[number], [row[number] for row in cells]
        made.add_column(heading, no_wrap=heading != wraps)
        whole = max(len(heading), *(each.cell_len for each in column))
        longest_word = max(cell_len(word) for each in (heading, *(each.plain for each in column)) for word in each.split() or [""])
        narrowest += whole if heading != wraps else max(longest_word, min(whole, NARROWEST_TEXT))
    if narrowest <= out.width:
        for row in cells:
            made.add_row(*(row[number] for number in shown))
        out.print(made)
        return
    width = max(len(headings[number]) for number in shown)
    for at, row in enumerate(cells):
        if at:
            out.print()
        for number in shown:
            if row[number].cell_len:
                title = Text(f"{headings[number]:{width}}  ", "bold")
                if headings[number] == wraps:
                    print_text(out, row[number], title)
                else:
                    out.print(title, row[number], sep="", soft_wrap=True)


def print_text(out: Console, text: Text, title: Text) -> None:
    """Print text after its title, in lines that end between words and begin below each other. A longer word is not broken."""
    longest_word = max(map(cell_len, text.plain.split()), default=0)
    for number, line in enumerate(text.wrap(out, max(NARROWEST_TEXT, out.width - title.cell_len, longest_word))):
        out.print(" " * title.cell_len if number else title, line, sep="", soft_wrap=True)


def print_commands(out: Console, commands: list[str]) -> None:
    """Print each command on one line, however long, so that it can be copied."""
    for command in commands:
        out.print("  ", safe(command), sep="", soft_wrap=True)


def print_advice(out: Console, codes: Iterable[str], *sections: Section) -> None:
    """Print what to do about each code that one of the sections explains, once each."""
    found = [each for code in dict.fromkeys(codes) if (each := explained(code, sections))]
    print_actions(out, [(each.code, plain(each.advice)) for each in found])


def print_actions(out: Console, actions: Iterable[tuple[str, str]]) -> None:
    """Print under "What to do" each code with its advice, once each; without any, nothing."""
    found = list(dict.fromkeys(actions))
    if found:
        out.print("\n[bold]What to do[/bold]")
    for code, advice in found:
        print_text(out, safe(f"{code}: {advice}"), Text("  "))


def print_problems(title: str, problems: Problems, *sections: Section) -> None:
    """Print one line for each problem, then what to do about each code. Without problems, print nothing."""
    if not len(problems):
        return
    out = console()
    out.print(f"\n{title}:")
    codes: dict[str, None] = {}
    for each in problems:
        codes[each.code] = None
        detail = f" ({each.detail})" if each.detail else ""
        out.print("  ", safe(f"{each.code}: {each.path or each.study_id or ''}{detail}"), sep="", soft_wrap=True)
    print_advice(out, codes, *sections)


def print_json_with_problems(document: dict[str, object], error: StorageLedgerError | None, problems: Problems) -> None:
    """Print the document with the error that ended the command early and all problems, one by one: there may be millions."""
    ended = {"trouble": error.code if error else None, "detail": error.detail if error else None}
    print(json.dumps(document | ended, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "findings": [', end="")
    for number, each in enumerate(problems):
        print(f"{',' if number else ''}\n    {json.dumps(asdict(each), ensure_ascii=False)}", end="")
    print("\n  ]\n}" if len(problems) else "]\n}")


def end(error: StorageLedgerError | None, problems: Problems) -> NoReturn:
    """Exit: 2 if an error ended the command early, 1 if there are problems, otherwise 0."""
    if error is not None:
        print(f"storage-ledger: {error}", file=sys.stderr)
        raise typer.Exit(2)
    raise typer.Exit(1 if len(problems) else 0)


def age(recorded_at: str, now: datetime | None = None) -> str:
    """Format the time since then, such as `3 min` or `2 d`."""
    return lasting(((now or datetime.now(UTC)) - instant(recorded_at)).total_seconds())


def lasting(seconds: float) -> str:
    """Format a duration, such as `3 min` or `2 d`; a negative one as `0 s`."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, one: str, many: str = "") -> str:
    """Format a number with its noun: `1 file`, `2 files`. `many` is an irregular plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Format a size, such as `512 B` or `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
