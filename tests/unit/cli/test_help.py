"""The program's help: every command, argument and option is described, and so is every exit code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import storage_ledger.cli
from storage_ledger.cli.exit_codes import EXIT_CODES
from storage_ledger.cli.main import app

CLI = Path(storage_ledger.cli.__file__).parent


def commands() -> dict[str, Any]:
    """`quarantine list` → its command; groups too, the program itself is ``."""
    found = {}

    def walk(name: str, command: Any) -> None:
        found[name] = command
        for sub, each in getattr(command, "commands", {}).items():
            walk(f"{name} {sub}".strip(), each)

    walk("", typer.main.get_command(app))
    return found


def help_of(name: str) -> str:
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert shown.exit_code == 0
    return shown.output


@pytest.mark.parametrize("name", commands())
def test_every_command_and_parameter_is_described_in_sentences(name):
    command = commands()[name]
    assert len(command.help) > 20
    assert all(paragraph.endswith((".", ":")) for paragraph in command.help.split("\n\n"))
    summary = command.help.partition("\n\n")[0]
    assert len(summary) <= 100, "one line of the list of commands"
    for param in command.params:
        assert param.help, param.opts
        assert param.help.endswith("."), param.help


@pytest.mark.parametrize("name", commands())
def test_a_value_has_a_name_and_a_flag_has_none(name):
    assert "bool" not in help_of(name), "as if a value followed"
    assert not re.search(r"<(str|path|list)", help_of(name)), "a type of Python"
    for param in commands()[name].params:
        assert bool(param.metavar) != bool(getattr(param, "is_flag", False)), param.opts


@pytest.mark.parametrize("name", commands())
def test_no_help_points_to_a_file_of_the_checkout(name):
    """An image holds no docs/."""
    assert "docs/" not in help_of(name)


def exits() -> Iterator[int]:
    """Every number that a command may end with, as it stands in the code."""
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"exit", "Exit"}:
                yield from (each.value for argument in node.args for each in outcomes(argument))
            if isinstance(node, ast.FunctionDef) and node.name == "_exit_code":
                for each in ast.walk(node):
                    if isinstance(each, ast.Return) and each.value is not None:
                        yield from (constant.value for constant in outcomes(each.value))


def outcomes(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.IfExp):
        return outcomes(node.body) + outcomes(node.orelse)
    return [node] if isinstance(node, ast.Constant) else []


def test_the_help_explains_each_exit_code_that_the_code_uses_and_no_other():
    assert set(exits()) == EXIT_CODES.keys()
    shown = " ".join(help_of("").split())
    assert all(f"{code} {meaning}" in shown for code, meaning in EXIT_CODES.items())


TEXTS = [
    (name, param.name) for name, command in commands().items() for param in command.params if "str" in str(param.type_descriptor.annotation)
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_a_text_that_is_not_utf_8_is_a_usage_error_of_every_command(name: str, text: str) -> None:
    args = []
    for param in commands()[name].params:
        if param.required or param.name == text:
            args += [*param.opts[:1] * (param.param_type_name == "option"), "\udcff" if param.name == text else "clock-ahead"]
    assert args
    shown = CliRunner().invoke(app, [*name.split(), *args])
    assert shown.exit_code == 2
    assert "not UTF-8" in re.sub(r"\s+", " ", shown.output)


def test_usage_line_names_arguments_without_braces():
    assert "verify-proof [OPTIONS] POLICY PROOF..." in help_of("verify-proof")
