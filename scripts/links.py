"""Checks the links in all Markdown files, without a network: each leads to a file, and to a heading, that exists."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import prose


def main() -> int:
    """Print each link that leads nowhere; exit with 1 if there is one."""
    wrong = [f"{path.relative_to(prose.ROOT)}:{line}: {target}" for path in prose.pages() for line, target in broken(path)]
    print(*wrong or ["all links lead somewhere"], sep="\n")
    return 1 if wrong else 0


def broken(page: Path) -> Iterator[tuple[int, str]]:
    """The line and the target of each link of a page that leads nowhere; addresses with a scheme are not fetched."""
    for line, target in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            yield line, target


def links(page: Path) -> Iterator[tuple[int, str]]:
    """The line and the target of each link and image, in Markdown or in HTML."""
    for token in prose.MARKDOWN.parse(page.read_text()):
        line = token.map[0] + 1 if token.map else 0
        for each in [token, *(token.children or [])]:
            if each.type in {"link_open", "image"}:
                yield line, str(each.attrs.get("href") or each.attrs["src"])
            elif each.type in {"html_block", "html_inline"}:
                yield from ((line, target) for target in re.findall(r'\b(?:href|src)="([^"]+)"', each.content))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: Counter[str] = Counter()
    names = set()
    tokens = prose.MARKDOWN.parse(page.read_text())
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            names.add(f"{name}-{found[name]}" if found[name] else name)
            found[name] += 1
    return frozenset(names)


if __name__ == "__main__":
    sys.exit(main())
