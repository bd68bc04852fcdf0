"""Finds the text that people read: Markdown, docstrings, comments, messages and web pages, without code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "storage_ledger"
OTHERS = [".ci/run", ".env.example", "Dockerfile", "compose.yaml", "docs/how-to/alerts.yaml", "pyproject.toml"]
STATEMENT = re.compile(
    r"^\s*(AND|BEGIN|DROP|PRAGMA|ATTACH|DETACH)\b"
    r"|\b(SELECT|INSERT|UPDATE|DELETE FROM|CREATE|FROM|WHERE|JOIN|TRIGGER|(?i:order by|group by))\b"
    r"|\\|\{%|'self'"  # regular expressions, templates, the Content-Security-Policy
)
TOOLS = re.compile(r"#\s*(noqa|type:|fmt:|ruff:|!)")
NOT_WORDS = re.compile(r"\S*[\d_/\\=@<>{}$|*#%&+~]\S*|\S*\w[.,:(]\w\S*|(?<!\S)--?[a-z]\S*")  # names, paths, numbers, options
MARKDOWN = MarkdownIt("commonmark").enable("table")


class Piece(NamedTuple):
    """Some words, and the file and line where they begin."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def everything() -> Iterator[Piece]:
    """All text for people in docs, package, scripts and configuration."""
    for path in pages():
        yield from in_markdown(path)
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        yield from in_python(path)
    for path in sorted((PACKAGE / "web" / "templates").glob("*.html")):
        yield from in_template(path)
    for path in sorted((PACKAGE / "web" / "static").glob("*.js")):
        yield from in_script(path)
    shell = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    for path in sorted([*shell, *(ROOT / name for name in OTHERS)]):
        yield from in_comments(path)


def pages() -> list[Path]:
    """The Markdown files for people."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def in_markdown(path: Path) -> Iterator[Piece]:
    """Paragraphs, headings and cells of tables; a line of the source each."""
    for token in MARKDOWN.parse(path.read_text()):
        if token.type == "inline" and token.map:
            line = token.map[0] + 1
            for child in token.children or []:
                if child.type in {"softbreak", "hardbreak"}:
                    line += 1
                elif child.type == "text":
                    yield Piece(path, line, child.content)


def in_python(path: Path) -> Iterator[Piece]:
    """Docstrings, comments, and strings with more than one word that are neither SQL nor a pattern."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Piece(path, token.start[0], without_code(TOOLS.split(token.string)[0]))
    parts = set()
    for node in ast.walk(ast.parse(source)):
        text = ""
        if isinstance(node, ast.JoinedStr):
            parts.update(map(id, node.values))
            text = "".join(str(each.value) if isinstance(each, ast.Constant) else "0" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        if " " in text.strip() and not STATEMENT.search(text):
            for number, line in enumerate(without_code(text).split("\n")):
                yield Piece(path, node.lineno + number, line)


def in_template(path: Path) -> Iterator[Piece]:
    """Text between the tags, and the attributes that are shown or read aloud."""
    hidden = r"\{% block body_class %\}.*?\{% endblock %\}|\{[{%#].*?[}%#]\}|<(script|style)\b.*?</\1>"
    source = re.sub(hidden, _blank, path.read_text(), flags=re.DOTALL)
    for attribute in re.finditer(r'\s(?:title|alt|aria-label|placeholder)="([^"]*)"', source):
        yield Piece(path, source.count("\n", 0, attribute.start()) + 1, attribute[1])
    source = re.sub(r"<[^>]*>|&\w+;", " ", re.sub(r"<(code|pre)\b.*?</\1>", _blank, source, flags=re.DOTALL))
    yield from (Piece(path, number, line) for number, line in enumerate(source.split("\n"), 1) if line.strip())


def in_script(path: Path) -> Iterator[Piece]:
    """Strings with more than one word, and comments."""
    for number, line in enumerate(path.read_text().split("\n"), 1):
        for match in re.finditer(r"//\s(?P<comment>.*)$|\"(?P<string>[^\"]*)\"|`(?P<template>[^`]*)`", line):
            text = match[match.lastgroup or 0]
            if " " in text and "<" not in text:
                yield Piece(path, number, re.sub(r"\$\{[^}]*\}", "0", text))


def in_comments(path: Path) -> Iterator[Piece]:
    """Comments that begin with `# ` and are not a setting."""
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if (comment := re.search(r"(?:^|\s)#\s(.*)", line)) and not re.match(r"[A-Z_]+=|shellcheck", comment[1]):
            yield Piece(path, number, without_code(comment[1]))


def without_code(text: str) -> str:
    """The text without what is between backticks, and without an error code before a colon."""
    return re.sub(r"``[^`]*``|`[^`]*`|^[a-z0-9]+(?:-[a-z0-9]+)+(?=: )", _blank, text)


def words(text: str) -> Iterator[str]:
    """The words of a text, without names of code, abbreviations and numbers."""
    for word in re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", NOT_WORDS.sub(" ", text)):
        plain = re.sub(r"['\u2019]s$", "", word)
        if len(plain) > 1 and plain.islower() | plain.istitle() | ("-" in plain) and not plain.isupper():
            yield plain


def _blank(match: re.Match[str]) -> str:
    """Keep the lines, so that line numbers stay right; and a figure, so that no word is made of what is left."""
    return "0" + "\n" * match[0].count("\n")
