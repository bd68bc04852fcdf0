"""A command's help: as wide as the terminal, and without the type of what takes no value."""

from __future__ import annotations

import inspect
import re
from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help flows: where the docstring breaks a line says nothing about the reader's terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.help:
            self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(self.help))

    def get_params(self, ctx: Any) -> list[Any]:
        """All of them, `--help` too."""
        return _flags_without_type(super().get_params(ctx))


class Group(TyperGroup):
    """Commands under one name, with options as those of a `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All of them, `--help` too."""
        return _flags_without_type(super().get_params(ctx))


def _flags_without_type(params: list[Any]) -> list[Any]:
    """typer would have `--json <bool>`, as if a value could follow."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return params
