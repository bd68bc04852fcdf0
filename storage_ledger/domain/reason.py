"""Why something is not as it should be: a code of the error catalogue, with what is particular to this case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is stable, `detail` is for people. Two reasons may have one code and different details."""

    code: str
    detail: str = ""
