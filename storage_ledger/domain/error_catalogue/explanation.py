"""The types of the catalogue: an explanation of one code, and a section of explanations."""

from __future__ import annotations

import re
from dataclasses import dataclass

REFERENCE = "docs/reference/error-codes.md"
BY, REASON = "YOUR NAME", "WHY"
"""Placeholders in commands, to be filled in."""
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one code means in one section.

    Texts are one-line Markdown: code in backticks, links relative to the reference page. `means` begins with a sentence that can
    stand alone. `meanwhile` adds to the section's `meanwhile`. `action` is an imperative that can be followed without its links: an
    image has no documentation. `steps` are the steps of the pipeline at which the code occurs, if the section distinguishes them.
    `commands` can be copied; words in capitals are placeholders.
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
        """`action`, followed by the commands."""
        return f"{self.action} Run {' or '.join(f'`{each}`' for each in self.commands)}." if self.commands else self.action


@dataclass(frozen=True, slots=True)
class Section:
    """The codes that one part of the program reports.

    `title` is the heading on the reference page, `intro` the Markdown lines below it. `meanwhile` applies to all its codes,
    `commands` to those without their own.
    """

    title: str
    intro: str
    explanations: tuple[Explanation, ...]
    meanwhile: str = ""
    commands: tuple[str, ...] = ()

    def find(self, code: str | None) -> Explanation | None:
        """Return the explanation of a code, or None."""
        return next((each for each in self.explanations if each.code == code), None)

    @property
    def anchor(self) -> str:
        """The section's address on the reference page."""
        return f"{REFERENCE}#{self.title.lower().replace(' ', '-')}"


def plain(text: str, *, backticks: bool = True) -> str:
    """Return Markdown as text for a terminal or web page: only the words of a link stay.

    Without `backticks`, code is not marked either.
    """
    shown = _LINK.sub(r"\1", text)
    return shown if backticks else shown.replace("`", "")
