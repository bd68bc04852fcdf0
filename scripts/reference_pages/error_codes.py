"""error-codes.md, from storage_ledger/domain/error_catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from storage_ledger.domain.error_catalogue.catalogue import SECTIONS, meanings
from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

HEAD = """\
# Error codes

<!-- scripts/reference writes this page from storage_ledger/domain/error_catalogue: change it there. -->

The ledger, logs, metrics, `/readyz` and commands use these codes, which never change.
The [runbook](../how-to/outages.md) finds a code by symptom; `storage-ledger explain CODE` prints its texts.
"""

LONG = 6
"""An action of more words is printed once; other codes refer to it."""


def page() -> str:
    """Return the page: a section for each place that reports codes, a heading for each code."""
    first: dict[str, str] = {}
    return "\n".join([HEAD, *(line for section in SECTIONS for line in _section(section, first))])


def _section(section: Section, first: dict[str, str]) -> Iterator[str]:
    yield f"## {section.title}"
    yield section.intro
    if section.meanwhile:
        yield f"\n{section.meanwhile}"
    yield ""
    elsewhere = [each.code for each in section.explanations if meanings(each.code)[0][0] is not section]
    if elsewhere:
        yield f"Also: {', '.join(f'[`{code}`](#{code})' for code in elsewhere)}.\n"
    for each in section.explanations:
        if each.code not in elsewhere:
            yield from _code(each.code, first)


def _code(code: str, first: dict[str, str]) -> Iterator[str]:
    """A list if the code has several meanings; with one action below it if that is the same for all.

    `first`: by action, the code that explains it, and no other action.
    """
    yield f"### `{code}`"
    found = _distinct(meanings(code))
    actions = [_action(explanation) for _, explanation in found]
    shared = len(set(actions)) == 1
    if shared:
        first.setdefault(actions[0], code)
    bullet = "- " if len(found) > 1 else ""
    for (title, explanation), action in zip(found, actions, strict=True):
        condition = f"{title}{explanation.means} {explanation.meanwhile}".strip()
        yield f"{bullet}{condition}" if shared else f"{bullet}{condition}<br>\n  {_once(action, code, first)}"
    yield f"\n{_once(actions[0], code, first)}\n" if shared else ""


def _distinct(found: list[tuple[Section, Explanation]]) -> list[tuple[str, Explanation]]:
    """The meanings of a code, each with its sections if there are several; those that differ only in section and step are one."""
    where: dict[Explanation, list[str]] = {}
    for section, explanation in found:
        where.setdefault(replace(explanation, steps=()), []).append(section.title)
    return [(f"*{', '.join(titles)}:* " if len(where) > 1 else "", explanation) for explanation, titles in where.items()]


def _once(action: str, code: str, first: dict[str, str]) -> str:
    known = first.get(action, code)
    return action if known == code or len(action.split()) <= LONG else f"See [`{known}`](#{known})."


def _action(explanation: Explanation) -> str:
    """The how-to of quarantined files has their commands."""
    return explanation.action if any("quarantine retry" in each for each in explanation.commands) else explanation.advice
