"""The list of DICOM studies: search, facets, order, and a summary of each study."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from storage_ledger.index.schema import FACETS as COLUMNS
from storage_ledger.web.pages.formatting import modalities, person
from storage_ledger.web.pages.patients import with_other_patients
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one, marks
from storage_ledger.web.pages.search_terms import Term, all_of, terms

A_PAGE = 50
MOST_FOUND = 5000
"""Maximum number of studies that a search considers, newest first: one letter matches half the archive."""

MOST_PAGES = 2000
FACET_VALUES = 12

LATEST = "SELECT * FROM dicom_studies ORDER BY last_archived_at DESC"

SORTS = {
    "arrived": ("Archived", "last_archived_at", "desc"),
    "date": ("Study date", "study_date", "desc"),
    "name": ("Patient", "patient_name", "asc"),
    "institution": ("Institution", "institution_name", "asc"),
    "size": ("Size", "bytes", "desc"),
}
"""Name in the address → title, column, default direction."""

NOT_THERE = "state IN ('pending', 'failed', 'quarantined')"

PRESETS = {1: "Today", 7: "Last 7 days", 30: "Last 30 days"}
"""Periods of study dates that end today, in days."""

_OF_FILES = "study_instance_uid IN (SELECT study_instance_uid FROM files"
CONDITIONS = {
    "damaged": ("Damaged", f"{_OF_FILES} INDEXED BY files_damaged WHERE fixity IN ('missing', 'changed'))"),
    "incomplete": ("Incomplete", f"study_instance_uid IN (SELECT study_instance_uid FROM studies WHERE {NOT_THERE})"),  # noqa: S608 - ours
    "flagged": ("Flagged", "flagged > 0"),
    "unread": ("Header not readable", f"{_OF_FILES} INDEXED BY files_unread WHERE dicom_error IS NOT NULL)"),
    "unverified": (
        "Not verified",
        "EXISTS (SELECT 1 FROM files f WHERE f.study_instance_uid = dicom_studies.study_instance_uid AND f.fixity = 'unverified')",
    ),
}
"""Name in the address → title, SQL condition on `dicom_studies`."""

COUNTED = ("damaged", "incomplete", "flagged", "unread")
"""Conditions whose studies are counted: few rows have them, and an index lists these."""

FACETS = {"modality": "Modality", "institution": "Institution", "year": "Year"}
NONE = "-"
"""In an address: no value."""

PREFIX = 8
"""Characters of a study_id that are enough to find it; commands and pages abbreviate it to this length."""

MOST_NAMED = 500

_WORDS = "SELECT rowid FROM dicom_studies_fts WHERE dicom_studies_fts MATCH ?"

_NAMED = """
SELECT study_instance_uid FROM dicom_studies WHERE study_instance_uid = :text
UNION SELECT study_instance_uid FROM series WHERE series_instance_uid = :text
UNION SELECT study_instance_uid FROM files WHERE sop_instance_uid = :text AND study_instance_uid IS NOT NULL
UNION SELECT study_instance_uid FROM files WHERE study_id = :text AND study_instance_uid IS NOT NULL
UNION SELECT study_instance_uid FROM files WHERE study_id BETWEEN :first AND :last AND study_instance_uid IS NOT NULL
UNION SELECT f.study_instance_uid FROM studies s JOIN files f USING (study_id)
  WHERE s.study_instance_uid = :text AND f.study_instance_uid IS NOT NULL LIMIT :most"""

# The few distinct values, each found by one index lookup: DISTINCT would read the whole index.
_ALL_MODALITIES = """
WITH RECURSIVE each (m) AS (SELECT min(modalities) FROM dicom_studies UNION ALL
  SELECT (SELECT min(modalities) FROM dicom_studies WHERE modalities > m) FROM each WHERE m IS NOT NULL)
SELECT m FROM each WHERE m IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The list that a URL requests. Values are taken as sent, so any of them may be invalid."""

    text: str = ""
    chosen: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""
    first_day: str = ""
    last_day: str = ""
    """First and last study date, `2026-01-31`, or empty."""
    days: int = 0
    """A preset: the studies of this many days up to today; 0: none."""
    sort: str = "arrived"
    way: str = "desc"
    page: int = 1

    @classmethod
    def of(cls, arguments: Mapping[str, str], today: date | None = None) -> ListRequest:
        """Parse the arguments of an address. `today`: the last day of the presets."""
        sort = arguments.get("sort", "")
        sort = sort if sort in SORTS else "arrived"
        way = arguments.get("way", "")
        page = arguments.get("page", "")
        condition = arguments.get("condition", "") or ("flagged" if arguments.get("flagged") == "1" else "")
        days = next((each for each in PRESETS if arguments.get("days") == str(each)), 0)
        return cls(
            text=arguments.get("q", "").strip()[:200],
            chosen={name: arguments[name][:200] for name in FACETS if arguments.get(name)},
            condition=condition if condition in CONDITIONS else "",
            first_day=_iso((today or date.min) - timedelta(days=days - 1)) if days and today else _day(arguments.get("from")),
            last_day="" if days else _day(arguments.get("to")),
            days=days,
            sort=sort,
            way=way if way in {"asc", "desc"} else SORTS[sort][2],
            page=min(max(int(page), 1), MOST_PAGES) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def terms(self) -> list[Term]:
        """Return the search terms."""
        return terms(self.text)

    @property
    def filters(self) -> int:
        """Return how many filters are set, apart from the search text."""
        return len(self.chosen) + bool(self.condition) + bool(self.first_day or self.last_day)

    @property
    def arguments(self) -> dict[str, str]:
        """Return the filters and the order as arguments of an address, without the search text."""
        dates = {"days": str(self.days)} if self.days else {"from": self.first_day, "to": self.last_day}
        order = {"sort": self.sort, "way": self.way} if self.sort != "arrived" or self.way != "desc" else {}
        return {name: value for name, value in {**self.chosen, "condition": self.condition, **dates, **order}.items() if value}

    def address(self, **other: str | int | None) -> str:
        """Return the address of the first page of this list with some arguments changed."""
        arguments: dict[str, Any] = {"q": self.text, **self.arguments, **other}
        kept = {name: value for name, value in arguments.items() if value not in {None, ""}}
        return "/dicom" + (f"?{urlencode(kept)}" if kept else "")

    def conditions(self, named: Mapping[str, Sequence[str]]) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values. `named`: studies that a term names by UID or study_id; see `named_by`."""
        parts: list[str] = []
        values: list[Any] = []
        words = [term for term in self.terms if term.text not in named]
        if words or (self.text and not named):
            # No limit if the search names a study: few rows match.
            parts.append(f"first_position IN ({_WORDS})" if named else f"first_position IN ({_WORDS} ORDER BY rowid DESC LIMIT ?)")
            values += [all_of(words)] if named else [all_of(words), MOST_FOUND]
        for term in self.terms:
            if term.text in named:
                uids = named[term.text]
                parts.append(f"(study_instance_uid IN ({marks(uids)}) OR first_position IN ({_WORDS}))")
                values += [*uids, term.match]
        for name, value in self.chosen.items():
            column = COLUMNS[name]
            if value == NONE:
                parts.append(f"{column} IS NULL")
            elif name == "modality":
                each = f"SELECT m FROM ({_ALL_MODALITIES}) WHERE instr(', ' || m || ',', ', ' || ? || ',') > 0"  # noqa: S608 - ours
                parts.append(f"modalities IN ({each})")
                values.append(value)
            else:
                parts.append(f"{column} = ?")
                values.append(int(value) if name == "year" and re.fullmatch("[0-9]{1,4}", value) else value)
        for way, day in ((">=", self.first_day), ("<=", self.last_day)):
            if day:
                parts.append(f"study_date {way} ?")
                values.append(day.replace("-", ""))
        if self.condition:
            parts.append(CONDITIONS[self.condition][1])
        return " AND ".join(parts) or "1", values


def id_range(text: str) -> tuple[str, str]:
    """Return the range of study_ids that begin with `text`; empty if the text is too short."""
    return (text, text + "~") if len(text) >= PREFIX else ("~", "")


def named_by(connection: Any, some: Sequence[Term]) -> dict[str, list[str]]:
    """Map the text of each term that is an identifier to the Study Instance UIDs it names. Such a term may also match as a word.

    Identifiers are the UID of a study, series or instance, a pipeline study_id or the beginning of one, and the Study Instance UID
    announced in a message.
    """
    found = {}
    for term in some:
        for text in dict.fromkeys((term.text, term.text.lower())):  # a UUID may be in capitals
            first, last = id_range(text)
            values = {"text": text, "first": first, "last": last, "most": MOST_NAMED}
            if uids := [row[0] for row in connection.execute(_NAMED, values)]:
                found[term.text] = uids
                break
    return found


def of_index(connection: Any, wanted: ListRequest) -> QueryRow:
    """Return the requested page of the list."""
    named = named_by(connection, wanted.terms)
    where, values = wanted.conditions(named)
    column, way = SORTS[wanted.sort][1], wanted.way
    # The inner query finds the page in an index alone; only the page's rows are read.
    keys = f"SELECT study_instance_uid FROM dicom_studies WHERE {where} ORDER BY {column} {way} LIMIT ? OFFSET ?"  # noqa: S608 - ours
    sql = f"SELECT * FROM dicom_studies WHERE study_instance_uid IN ({keys}) ORDER BY {column} {way}"  # noqa: S608 - ours
    rows = ask(connection, sql, [*values, A_PAGE, (wanted.page - 1) * A_PAGE])
    total, facets = _facets(connection, wanted, where, values)
    return {
        "rows": with_covers(connection, with_other_patients(connection, with_condition(connection, rows))),
        "total": total,
        "pages": max(1, -(-total // A_PAGE)),
        "facets": facets,
        "cut": bool(wanted.terms) and not named and _found(connection, wanted.terms) > MOST_FOUND,
        "named": named,
        "known": total or _any(connection),
    }


def with_covers(connection: Any, rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Add `cover` to each study: the file (study_id, name) whose image represents it, or None."""
    uids = [row["study_instance_uid"] for row in rows]
    sql = f"""
SELECT study_instance_uid, study_id, name FROM (
  SELECT study_instance_uid, study_id, name,
    row_number() OVER (PARTITION BY study_instance_uid ORDER BY series_instance_uid, instance_number, study_id, name) AS n,
    count(*) OVER (PARTITION BY study_instance_uid) AS c
  FROM files WHERE study_instance_uid IN ({marks(uids)}) AND "rows" IS NOT NULL
) WHERE n = c / 3 + 1"""  # noqa: S608 - marks. A third of the way in: the first slices of a series show little
    covers = {row["study_instance_uid"]: row for row in ask(connection, sql, uids)}
    return [{**_said(row), "cover": covers.get(row["study_instance_uid"])} for row in rows]


def with_condition(connection: Any, rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Add `fixity` (file counts by state) and `waiting` (counts of unarchived pipeline studies by state) to each study."""
    uids = [row["study_instance_uid"] for row in rows]
    sources = {"fixity": "fixity AS word FROM files", "waiting": "state AS word FROM studies"}
    found: dict[str, dict[str, dict[str, int]]] = {name: {} for name in sources}
    for name, source in sources.items():
        sql = f"SELECT study_instance_uid AS uid, count(*) AS n, {source} WHERE study_instance_uid IN ({marks(uids)}) GROUP BY 1, 3"
        for row in ask(connection, sql if name == "fixity" else sql.replace(" GROUP", f" AND {NOT_THERE} GROUP"), uids):
            found[name].setdefault(row["uid"], {})[row["word"]] = row["n"]
    return [{**row, **{name: each.get(row["study_instance_uid"], {}) for name, each in found.items()}} for row in rows]


def _iso(day: date) -> str:
    return day.isoformat()


def _day(text: str | None) -> str:
    """Return a day as `<input type="date">` sends it, or "" for anything else."""
    with suppress(ValueError):
        if text and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return _iso(date.fromisoformat(text))
    return ""


def _said(row: QueryRow) -> QueryRow:
    return {
        **row,
        "person": person(row["patient_name"]),
        "kinds": modalities(row["modalities"]),
        "href": f"/dicom/{quote(row['study_instance_uid'], safe='')}",
    }


def _facets(connection: Any, wanted: ListRequest, where: str, values: Sequence[Any]) -> tuple[int, list[QueryRow]]:
    everything = where == "1"
    source = "dicom_studies" if everything else "hit"
    counted = [f"SELECT 'condition', '{name}', count(*) FROM {source} WHERE {CONDITIONS[name][1]}" for name in COUNTED]  # noqa: S608 - ours
    if everything:
        sql = " UNION ALL ".join(["SELECT name, value, studies FROM facets", *counted])
    else:  # then the studies themselves are counted
        facets = [f"SELECT '{name}', {column}, count(*) FROM hit GROUP BY 2" for name, column in COLUMNS.items()]  # noqa: S608 - ours
        each = " UNION ALL ".join([*facets, *counted])
        columns = ", ".join(["study_instance_uid", "flagged", *COLUMNS.values()])
        sql = f"WITH hit AS MATERIALIZED (SELECT {columns} FROM dicom_studies WHERE {where}) {each}"  # noqa: S608 - ours
    rows = list(connection.execute(sql, list(values)))
    counts: dict[str, Counter[str]] = {name: Counter() for name in COLUMNS}
    conditions = {value: count for name, value, count in rows if name == "condition"}
    total = 0
    for name, value, count in rows:
        if name == "condition":
            continue
        total += count if name == "year" else 0
        for each in [code for code, _ in modalities(value)] or [""] if name == "modality" else [value]:
            counts[name][NONE if each in {None, ""} else str(each)] += count
    return total, [*(_facet(wanted, name, counts[name]) for name in COLUMNS), _condition_facet(wanted, conditions)]


def _condition_facet(wanted: ListRequest, counts: Mapping[str, int]) -> QueryRow:
    """Return the conditions that some study has, the chosen one, and those that are not counted."""
    entries = [
        {
            "value": title,
            "means": "",
            "count": counts.get(name),
            "chosen": name == wanted.condition,
            "href": wanted.address(condition=None if name == wanted.condition else name),
        }
        for name, (title, _) in CONDITIONS.items()
        if name == wanted.condition or counts.get(name, 1)
    ]
    return {"name": "condition", "title": "Condition", "entries": entries, "more": False}


def _facet(wanted: ListRequest, name: str, counts: Counter[str]) -> QueryRow:
    chosen = wanted.chosen.get(name)
    most = counts.most_common(FACET_VALUES)
    if name == "year":
        most.sort(key=lambda each: each[0] if each[0] != NONE else "", reverse=True)
    if chosen is not None and chosen not in dict(most):
        most.insert(0, (chosen, counts[chosen]))
    entries = [
        {
            "value": "none" if value == NONE else value,
            "means": dict(modalities(value)).get(value, "") if name == "modality" else "",
            "count": count,
            "chosen": value == chosen,
            "href": wanted.address(**{name: None if value == chosen else value}),
        }
        for value, count in most
    ]
    return {"name": name, "title": FACETS[name], "entries": entries, "more": len(counts) > FACET_VALUES}


def _found(connection: Any, some: Sequence[Term]) -> int:
    sql = f"SELECT count(*) AS n FROM ({_WORDS} ORDER BY rowid DESC LIMIT ?)"  # noqa: S608 - ours
    return int((ask_one(connection, sql, (all_of(some), MOST_FOUND + 1)) or {"n": 0})["n"])


def _any(connection: Any) -> int:
    return int((ask_one(connection, "SELECT EXISTS (SELECT 1 FROM dicom_studies) AS n") or {"n": 0})["n"])
