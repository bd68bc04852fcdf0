"""The types of the catalogue: an explanation of one code, and a section of explanations."""

from __future__ import annotations

import re
from dataclasses import dataclass

REFERENCE = "docs/reference/error-codes.md"
BY, REASON = "YOUR NAME", "WHY"
"""Placeholders in the commands that are shown to people, who put their own words there."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]*)(?:#[^)]*)?\)")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one code means in one section.

    Texts are Markdown of one line: code in backticks, links relative to the reference page. `means` begins with a sentence that can
    stand alone. `meanwhile` is what the service does until somebody acts, beyond what the section says of all its codes. `action` is an
    imperative. `steps` of the pipeline are those at which the code occurs, where the section tells them apart. `commands` can be
    copied; words in capitals are to be filled in.
    """

    code: str
    means: str
    action: str
    meanwhile: str = ""
    steps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of `means`, without its full stop."""
        return re.split(r"(?<=[.?])\s", self.means, maxsplit=1)[0].removesuffix(".")

    @property
    def advice(self) -> str:
        """`action`, with the commands named."""
        return f"{self.action} Run {' or '.join(f'`{each}`' for each in self.commands)}." if self.commands else self.action


@dataclass(frozen=True, slots=True)
class Section:
    """The codes of one place where the program speaks of an error. `title` is the heading in the reference page.

    `where` says in a few words what has such a code. `intro` is Markdown of several lines for the page. `meanwhile` holds for all of its
    codes, and so do `commands` for those that have none of their own.
    """

    title: str
    where: str
    intro: str
    explanations: tuple[Explanation, ...]
    meanwhile: str = ""
    commands: tuple[str, ...] = ()

    def find(self, code: str | None) -> Explanation | None:
        """The explanation of a code; None where the section has none."""
        return next((each for each in self.explanations if each.code == code), None)

    @property
    def anchor(self) -> str:
        """Its address in the reference page."""
        return f"{REFERENCE}#{self.title.lower().replace(' ', '-')}"


def plain(text: str, *, backticks: bool = True) -> str:
    """Markdown as text: a link becomes its words and the path of the page; without `backticks` code is not marked."""
    shown = _LINK.sub(lambda found: found[1] + _path(found[2]), text)
    return shown if backticks else shown.replace("`", "")


def _path(target: str) -> str:
    """` (docs/how-to/verify.md)` of a link in the reference page; nothing of one within that page."""
    if not target:
        return ""
    return f" (docs/{target.removeprefix('../')})" if target.startswith("../") else f" (docs/reference/{target})"
