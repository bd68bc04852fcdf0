"""The findings of a verification: damage and, separately, what could not be checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, Unpack

from storage_ledger.domain.paths import valid_study_id
from storage_ledger.domain.payloads import VerifiedFinding

LISTED = 100_000
"""How many findings are listed; further ones are only counted."""


class Stopped(Exception):
    """The verification was interrupted; its findings so far are valid."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not match the ledger, or (in `Findings.unchecked`) that could not be checked.

    `path`: relative to ARCHIVE_PATH, made printable; or `ledger.db`, `index.db`. `position`: of the entry concerned.
    """

    code: str
    part: str
    position: int | None = None
    study_id: str | None = None
    path: str | None = None
    detail: str = ""

    def stored(self) -> VerifiedFinding:
        """Return the finding as stored in a `verified` entry."""
        return VerifiedFinding(self.code, self.position, self.study_id, self.path)

    def to_json(self) -> dict[str, Any]:
        """Return what `verify --json` prints."""
        return asdict(self)


class Where(TypedDict, total=False):
    """What a finding is about, as read: a path may have any bytes, and a study_id from a damaged row may be anything."""

    position: int | None
    study_id: str | None
    path: str | None
    detail: str


@dataclass(slots=True)
class Findings:
    """All findings. `damaged` and `unchecked` list the first ones; the counts by code include the rest."""

    damaged: list[Finding] = field(default_factory=list)
    unchecked: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unchecked_counts: Counter[str] = field(default_factory=Counter)
    on_found: Callable[[Finding, bool], None] = lambda _, __: None

    def report(self, code: str, part: str, **where: Unpack[Where]) -> None:
        """Add damage."""
        found = _finding(code, part, **where)
        self.counts[code] += 1
        if len(self.damaged) < LISTED:
            self.damaged.append(found)
        self.on_found(found, True)

    def unseen(self, code: str, part: str, **where: Unpack[Where]) -> None:
        """Add something that could not be checked; it may or may not be damaged."""
        found = _finding(code, part, **where)
        self.unchecked_counts[code] += 1
        if len(self.unchecked) < LISTED:
            self.unchecked.append(found)
        self.on_found(found, False)


def _finding(code: str, part: str, **where: Unpack[Where]) -> Finding:
    study_id = where.get("study_id")
    known = study_id if isinstance(study_id, str) and valid_study_id(study_id) else None
    return Finding(code, part, where.get("position"), known, printable(where.get("path")), where.get("detail", ""))


def printable(path: str | None) -> str | None:
    """Return the path as valid UTF-8 for the ledger: a name may have any bytes."""
    return None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
