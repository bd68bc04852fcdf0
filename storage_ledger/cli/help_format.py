"""What all commands have in common: help that flows to the terminal's width, without Python's types, and arguments that are text."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help ignores the line breaks of its docstring. Its texts are UTF-8, like those of the ledger; paths need not be."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _flowing(self.help)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises a usage error if a text is not UTF-8."""
        left: list[str] = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name)
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(each, str) and not _is_utf8(each):
                    raise typer.BadParameter("this text is not UTF-8", ctx=ctx, param=param)  # type: ignore[arg-type] # its own class
        return left

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; typer would write `{STUDY_ID}` for STUDY_ID, and `{PROOF}...` for several."""
        return [each.replace("{", "").replace("}", "") for each in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, including `--help`."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, formatted like a `Command`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _flowing(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, including `--help`."""
        return _without_types(super().get_params(ctx))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps bytes that it cannot decode as lone surrogates
        return False
    return True


def _flowing(text: str | None) -> str | None:
    """Join the lines of each paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text)) if text else text


def _without_types(params: list[Any]) -> list[Any]:
    """Remove what is no name: typer would show `--json <bool>`, as if a value followed, and `PROOF <list[Path]>`."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
        elif isinstance(each, TyperArgument):
            each.display_type_rich = lambda **_: None  # type: ignore[method-assign]
    return params
