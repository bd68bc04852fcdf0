"""What keeps the house in order: short modules, one name for one thing, and a first sentence that says what a module is for."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "storage_ledger"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400


def of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_no_module_is_longer_than_a_reader_keeps_in_mind():
    too_long = {of(path) for path in MODULES if len(path.read_text().splitlines()) > MOST_LINES}
    assert too_long == set()


def public_types(tree: ast.Module) -> set[str]:
    """Classes, and aliases of types such as `Outcome = A | B`, at the top of a module."""
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.BinOp(op=ast.BitOr()) | ast.Subscript()):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                names.add(name)
    return {name for name in names if name[0].isupper() and not name.isupper()}


def test_no_two_public_types_share_a_name():
    modules = defaultdict(set)
    for path in MODULES:
        for name in public_types(ast.parse(path.read_text())):
            modules[name].add(of(path))
    twice = {name: sorted(found) for name, found in modules.items() if len(found) > 1}
    assert twice == {}


def test_every_module_says_in_its_first_sentence_what_it_is_for():
    first = {of(path): (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n", 1)[0] for path in MODULES}
    assert {name: text for name, text in first.items() if not text.rstrip("`)").endswith((".", ":", "?", "…"))} == {}
