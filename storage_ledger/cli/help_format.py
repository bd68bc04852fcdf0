"""The format of a command's help: text flows to the terminal's width, and flags show no type."""

from __future__ import annotations

import inspect
import re
from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help ignores the line breaks of its docstring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _flowing(self.help)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; typer would write `{STUDY_ID}` for STUDY_ID."""
        return [each.strip("{}") for each in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, including `--help`."""
        return _flags_without_type(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, formatted like a `Command`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _flowing(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, including `--help`."""
        return _flags_without_type(super().get_params(ctx))


def _flowing(text: str | None) -> str | None:
    """Join the lines of each paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text)) if text else text


def _flags_without_type(params: list[Any]) -> list[Any]:
    """Remove the type of flags: typer would show `--json <bool>`, as if a value followed."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return params
