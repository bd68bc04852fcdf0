"""The results of verifications, read from `verified` entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage_ledger.domain.entries import Entry, Kind, understood
from storage_ledger.index.fixity import FIXITY, is_understood
from storage_ledger.ledger.contract import Ledger

COUNTED = ("files", "intact", "damaged", "unchecked", "bytes", "findings")
WHOLE = frozenset({"all", "oldest"})
"""Selections that end with every file read."""

VERIFIED_READ = 1000
"""How many of the newest `verified` entries are read."""


@dataclass(frozen=True, slots=True)
class VerificationSummary:
    """The totals of the last `verify` run, or of the background scrub's current round, over its entries.

    `position` and `recorded_at`: of the newest entry. `unseen`: how many files, folders and parts could not be checked.
    """

    position: int
    by: str
    began: str
    recorded_at: str
    complete: bool
    selection: str
    files: int
    intact: int
    damaged: int
    unchecked: int
    bytes: int
    findings: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the archive was read. `recent`: files read in the last 30 days; `oldest`: when the longest-unread one was read.

    `never`: files not read since they were archived. `oldest` is None if no file was ever read.
    """

    files: int
    recent: int
    never: int
    oldest: str | None


COVERAGE_DAYS = 30

COVERAGE = """
SELECT files, (SELECT count(*) FROM files INDEXED BY files_verified WHERE verified_at >= ?), files - ever, oldest
FROM (SELECT coalesce(sum(files), 0) AS files FROM arrivals),
  (SELECT count(*) AS ever, min(verified_at) AS oldest FROM files INDEXED BY files_verified WHERE verified_at IS NOT NULL)"""
"""SQL on the index for a `Coverage`; its parameter is the time 30 days ago, RFC 3339."""


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A finding other than a missing or changed file. `entry`: position of the `verified` entry."""

    code: str
    position: int | None
    study_id: str | None
    path: str | None
    entry: int
    recorded_at: str


def last_verify(ledger: Ledger) -> VerificationSummary | None:
    """Return the result of the last `verify` run or the scrub's current round, whichever is newer; None if there is none."""
    return verification(ledger.of_no_study((Kind.VERIFIED.value,), VERIFIED_READ))


def last_complete(newest_first: Iterable[Entry]) -> VerificationSummary | None:
    """Return the last finished `verify` run or scrub round over the whole archive, from the newest `verified` entries.

    A run about one study, a sample or the longest-unverified files says nothing about the rest.
    """
    run: list[Entry] = []
    for entry in filter(_is_understood, newest_first):
        data = entry.data
        if not run:
            if data["complete"] and data["scope"]["selection"] in WHOLE:
                run.append(entry)
        elif entry.recorded_at < run[0].data["began"]:
            break
        elif (data["by"], data["began"]) == (run[0].data["by"], run[0].data["began"]):
            run.append(entry)
    return _summed(run)


def coverage(rows: Sequence[Sequence[Any]] | None) -> Coverage | None:
    """Return the coverage from the result of `COVERAGE`; None if there is none."""
    return None if not rows else Coverage(*rows[0])


def verification(newest_first: Iterable[Entry]) -> VerificationSummary | None:
    """Like `last_verify`, from the newest `verified` entries."""
    run: list[Entry] = []
    for entry in filter(_is_understood, newest_first):
        data = entry.data
        if run and (data["by"], data["began"]) != (run[0].data["by"], run[0].data["began"]):
            break
        run.append(entry)
    return _summed(run)


def _summed(run: Sequence[Entry]) -> VerificationSummary | None:
    """Return the totals of a run, from its entries, newest first."""
    if not run:
        return None
    payloads = [entry.data for entry in run]
    return VerificationSummary(
        position=run[0].position,
        by=payloads[0]["by"],
        began=payloads[0]["began"],
        recorded_at=run[0].recorded_at,
        complete=payloads[0]["complete"],
        selection=payloads[0]["scope"]["selection"],
        **{name: sum(p["counts"][name] for p in payloads) for name in COUNTED},
        unseen=sum(len(p["unchecked"]) for p in payloads),
    )


def found_besides_files(newest_first: Iterable[Entry]) -> list[OpenFinding]:
    """Return the open findings other than missing or changed files (the index has those), newest first.

    They come from the last complete `verify` run and later ones, and from the scrub's last round. A scrub reads only files, and
    an interrupted run or one about a single study does not check the rest, so none of these clears earlier findings.
    """
    found: dict[tuple[Any, ...], OpenFinding] = {}
    whole: str | None = None
    scrub: str | None = None
    for entry in filter(_is_understood, newest_first):
        data = entry.data
        if data["by"] == "scrub":
            scrub = scrub or data["began"]
            if data["began"] != scrub:
                continue
        else:
            if whole not in {None, data["began"]}:
                break
            if data["complete"] and data["scope"]["selection"] != "study":
                whole = data["began"]
        for each in data["findings"]:
            if each["code"] not in FIXITY:
                one = OpenFinding(
                    str(each["code"]), each.get("position"), each.get("study_id"), each.get("path"), entry.position, entry.recorded_at
                )
                found.setdefault((one.code, one.position, one.path), one)
    return list(found.values())


def _is_understood(entry: Entry) -> bool:
    """Return whether the entry has all fields read here: valid hashes do not prove a valid payload."""
    data = understood(entry) or {}
    scope, counts = data.get("scope"), data.get("counts")
    return (
        {"by", "began", "complete"} <= data.keys()
        and isinstance(scope, dict)
        and "selection" in scope
        and isinstance(counts, dict)
        and set(COUNTED) <= counts.keys()
        and is_understood(entry)
    )
