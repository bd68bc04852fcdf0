"""The reason for a problem: a code of the error catalogue, with the details of the case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable `code`, and a `detail` for people that differs from case to case."""

    code: str
    detail: str = ""
