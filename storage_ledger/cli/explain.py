"""`storage-ledger explain CODE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from storage_ledger.domain.error_catalogue.explanation import Explanation, Section


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Error code, such as archive-full. Without it, list all codes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain an error code: what it means, what happens meanwhile, and what to do.

    If a code has several meanings, each is explained. Needs neither a ledger nor settings.

    Exit code 2 if there is no such code; similar codes are suggested.
    """
    from storage_ledger.cli.output import print_json
    from storage_ledger.domain.error_catalogue.catalogue import codes, meanings

    if code is None:
        if as_json:
            print_json([{"code": each, "meanings": [_meaning_document(*one) for one in meanings(each)]} for each in codes()])
        else:
            _print_all()
        return
    found = meanings(code)
    if not found:
        raise typer.BadParameter(_unknown(code))
    if as_json:
        print_json({"code": code, "meanings": [_meaning_document(*one) for one in found]})
    else:
        _print(code, found)


def _print(code: str, found: list[tuple[Section, Explanation]]) -> None:
    from rich.table import Table

    from storage_ledger.cli.output import console, print_commands, safe
    from storage_ledger.domain.error_catalogue.explanation import plain

    out = console()
    out.print(f"[bold]{code}[/bold]")
    for section, explanation in found:
        steps = f", {' and '.join(explanation.steps)}" if explanation.steps else ""
        out.print(f"\n[bold]{section.title}{steps}[/bold]")
        rows = Table.grid(padding=(0, 2))
        meanwhile = f"{section.meanwhile} {explanation.meanwhile}".strip()
        for title, text in (("Means", explanation.means), ("Meanwhile", meanwhile), ("To do", explanation.action)):
            if text:
                rows.add_row(title, safe(plain(text)))
        out.print(rows)
        print_commands(out, list(explanation.commands or section.commands))


def _print_all() -> None:
    from storage_ledger.cli.output import console, safe
    from storage_ledger.domain.error_catalogue.catalogue import codes, meanings
    from storage_ledger.domain.error_catalogue.explanation import plain

    out = console()
    width = max(map(len, codes()))
    for code in codes():
        first, *others = [plain(explanation.summary) for _, explanation in meanings(code)]
        more = f" (and {len(others)} more)" if others else ""
        out.print(f"[bold]{code:{width}}[/bold]  ", safe(first + more), sep="", soft_wrap=True)


def _meaning_document(section: Section, explanation: Explanation) -> dict[str, Any]:
    from storage_ledger.domain.error_catalogue.explanation import plain

    return {
        "section": section.title,
        "steps": list(explanation.steps),
        "means": plain(explanation.means),
        "meanwhile": plain(f"{section.meanwhile} {explanation.meanwhile}".strip()),
        "action": plain(explanation.action),
        "commands": list(explanation.commands or section.commands),
        "reference": section.anchor,
    }


def _unknown(code: str) -> str:
    """Return the error for an unknown code. `repr` shows it safely, whatever it contains."""
    from difflib import get_close_matches

    from storage_ledger.domain.error_catalogue.catalogue import codes

    known = codes()
    near = get_close_matches(code, known, n=5) or [each for each in known if code and code in each][:5]
    hint = f"Did you mean {', '.join(near)}?" if near else "`storage-ledger explain` lists all codes."
    return f"Unknown code {code!r}. {hint}"
