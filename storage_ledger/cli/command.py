"""A command's help, as wide as the terminal."""

from __future__ import annotations

import inspect
import re
from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose help flows: where the docstring breaks a line says nothing about the reader's terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.help:
            self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(self.help))
