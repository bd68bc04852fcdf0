"""Sphinx configuration of the docs site; scripts/docs builds it from the checkout's root, so README.md is the front page."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
MAP = "docs/index"
FRONT = "README"
NOT_ON_THE_MAP = ["benchmarks/RESULTS"]

project = "storage-ledger"
author = "The storage-ledger developers"
version = release = re.findall(r'^__version__ = "(.+)"$', (ROOT / "storage_ledger" / "__init__.py").read_text(), flags=re.MULTILINE)[0]
language = "en_GB"
root_doc = FRONT
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md", "docs/*.md", "docs/**/*.md"]
extensions = ["myst_parser"]
myst_heading_anchors = 6  # the anchors that GitHub gives to headings
myst_links_external_new_tab = False
nitpicky = True

highlight_language = "none"  # of a block that names none: drawings and outputs

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"storage-ledger {version}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
smartquotes = False  # what is copied into a shell keeps its quotes


def setup(app: Sphinx) -> None:
    """Add what the pages do not contain, because GitHub would show it: the menu; and an address for the front page."""
    app.connect("source-read", _add_menu)
    app.connect("build-finished", _redirect_to_front_page)


def _add_menu(_: Sphinx, name: str, source: list[str]) -> None:
    """The menu has the sections and the order of the map; an index of a folder has its own pages."""
    if name == FRONT:
        start, *parts = re.split(r"^## (.+)\n", (ROOT / f"{MAP}.md").read_text(), flags=re.MULTILINE)
        source[0] += _menu(None, [MAP, *_pages(MAP, start)])
        for heading, section in zip(parts[::2], parts[1::2], strict=True):
            source[0] += _menu(heading, _pages(MAP, section))
        source[0] += _menu("Measurements", NOT_ON_THE_MAP)
    elif name != MAP and name.endswith("/index"):
        source[0] += _menu(None, _pages(name, source[0]))


def _pages(page: str, text: str) -> list[str]:
    """The pages that `text` links to, as documents, in their order, each once."""
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#:\s]+)\.md\)", text)
    return list(dict.fromkeys(str((folder / target).resolve().relative_to(ROOT)) for target in targets))


def _menu(caption: str | None, pages: list[str]) -> str:
    options = [":hidden:", ":titlesonly:", *([f":caption: {caption}"] if caption else [])]
    return "\n\n" + "\n".join(["```{toctree}", *options, "", *(f"/{page}" for page in pages if page != FRONT), "```"]) + "\n"


def _redirect_to_front_page(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        refresh = f'<meta http-equiv="refresh" content="0; url={FRONT}.html">'
        (Path(app.outdir) / "index.html").write_text(f'<!doctype html><meta charset="utf-8"><title>{project}</title>{refresh}\n')
