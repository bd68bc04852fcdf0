"""The conditions of a search → SQL on the index (PS3.4 §C.2.2.2). Pure.

Text is matched by GLOB, in which `*` and `?` mean what they mean in DICOM. Person names ignore case, and match in any of their groups.
"""

# ruff: noqa: S608 - our own names; values are parameters
from __future__ import annotations

import json
import re
from typing import Any

from storage_ledger.web.dicomweb.attributes import QueryLevel
from storage_ledger.web.dicomweb.query import Condition, SearchRequest
from storage_ledger.web.pages.search_terms import expression

EMPTY = '""'
"""As a value: the attribute is empty (PS3.4 §C.2.2.2.7)."""

_SERIES_OF_FILE = "LEFT JOIN series e ON e.study_instance_uid = f.study_instance_uid AND e.series_instance_uid = f.series_instance_uid"
_FOUND: dict[QueryLevel, str] = {
    "studies": "{studies}",
    "series": "{studies} {join} series e ON e.study_instance_uid = s.study_instance_uid",
    "instances": f"{{studies}} {{join}} files f ON f.study_instance_uid = s.study_instance_uid {_SERIES_OF_FILE}",
}
KEY: dict[QueryLevel, str] = {
    "studies": "s.rowid AS id",
    "series": "s.rowid AS id, e.series_instance_uid AS series_uid",
    "instances": "f.rowid AS id",
}
"""SQL of what identifies a result."""

BY_KEY: dict[QueryLevel, str] = {
    "studies": "dicom_studies s ON s.rowid = id",
    "series": "dicom_studies s ON s.rowid = id "
    "JOIN series e ON e.study_instance_uid = s.study_instance_uid AND e.series_instance_uid = series_uid",
    "instances": f"files f ON f.rowid = id JOIN dicom_studies s ON s.study_instance_uid = f.study_instance_uid {_SERIES_OF_FILE}",
}
"""SQL that joins the tables to a table of keys."""

_OF_FILE = "f.sop_instance_uid IS NOT NULL AND f.series_instance_uid IS NOT NULL"

ONE_OF_EACH = f"""{_OF_FILE} AND f.superseded = 0 AND NOT EXISTS (SELECT 1 FROM files g WHERE g.sop_instance_uid = f.sop_instance_uid
  AND g.study_instance_uid = f.study_instance_uid AND g.series_instance_uid = f.series_instance_uid AND g.superseded = 0
  AND g.position < f.position)"""
"""SQL condition on a file `f`: it is an instance, and the first of several with the same UIDs."""


def tables(level: QueryLevel, request: SearchRequest, *, in_a_study: bool) -> str:
    """Return SQL of the tables to search.

    Without a UID to begin at, studies are read before what they hold; without any condition on the studies, the newest first: the
    page is then full before most have been read.
    """
    if in_a_study or any(each.matched.kind == "uid" for each in request.conditions):
        return _FOUND[level].format(studies="dicom_studies s", join="JOIN")
    by_index = any(each.matched.column.startswith("s.") and each.matched.kind != "modalities" for each in request.conditions)
    return _FOUND[level].format(studies=f"dicom_studies s{'' if by_index else ' INDEXED BY dicom_studies_by_first'}", join="CROSS JOIN")


def where(level: QueryLevel, request: SearchRequest) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions and their parameters. A condition on a lower level means: one of the study's or series' own."""
    conditions: list[str] = []
    of_a_request: list[str] = []
    parameters: dict[str, Any] = {}
    for number, each in enumerate(request.conditions):
        name = f"v{number}"
        text = _condition(each, name, parameters, fuzzy=request.fuzzy)
        if (alias := each.matched.column[0]) == "r":
            of_a_request.append(text)
        else:
            conditions.append(_at_level(level, alias, text))
    if of_a_request:
        # One item has to match them all (PS3.4 §C.2.2.2.6). Without any, a series has one that is empty.
        items = "json_each(ifnull(e.request_attributes, '[{}]')) AS r"
        conditions.append(_at_level(level, "e", f"EXISTS (SELECT 1 FROM {items} WHERE {' AND '.join(of_a_request)})"))
    return conditions, parameters


def _at_level(level: QueryLevel, alias: str, text: str) -> str:
    match level, alias:
        case "studies", "e":
            return f"EXISTS (SELECT 1 FROM series e WHERE e.study_instance_uid = s.study_instance_uid AND {text})"
        case "studies", "f":
            return f"EXISTS (SELECT 1 FROM files f WHERE f.study_instance_uid = s.study_instance_uid AND {text})"
        case "series", "f":
            return (
                "EXISTS (SELECT 1 FROM files f WHERE f.study_instance_uid = e.study_instance_uid "
                f"AND f.series_instance_uid = e.series_instance_uid AND {text})"
            )
        case _:
            return text


def _condition(each: Condition, name: str, parameters: dict[str, Any], *, fuzzy: bool) -> str:
    column = each.matched.column
    first = each.values[0]
    if first == EMPTY:
        return f"ifnull({column}, '') = ''"
    match each.matched.kind:
        case "uid":
            parameters[name] = json.dumps(each.values)
            return f"{column} IN (SELECT value FROM json_each(:{name}))"
        case "number":
            parameters[name] = int(first)
            return f"{column} = :{name}"
        case "modalities":
            parameters[name] = json.dumps([f"*, {_glob(value)}, *" for value in each.values])
            # The few distinct values are matched instead of all studies. The plus sign: the newest studies first, not those of one value.
            return (
                f"+{column} IN (SELECT facets.value FROM facets, json_each(:{name}) AS wanted "
                "WHERE facets.name = 'modality' AND ', ' || facets.value || ', ' GLOB wanted.value)"
            )
        case "date":
            return _period(each, column, name, parameters, after="")
        case "time":
            return _period(each, column, name, parameters, after="~")
        case "person":
            return _person(column, first, name, parameters, fuzzy=fuzzy)
        case "text":
            if not re.search(r"[*?]", first):
                parameters[name] = first
                return f"{column} = :{name}"
            parameters[name] = _glob(first)
            return f"{column} GLOB :{name}"


def _period(each: Condition, column: str, name: str, parameters: dict[str, Any], after: str) -> str:
    """Return a condition on a date or time. `after`: sorts after what may follow, as 1200 includes 120000."""
    last = each.values[-1]
    if not each.is_range and not after:
        parameters[name] = last
        return f"{column} = :{name}"
    texts = []
    if each.values[0]:
        parameters[f"{name}_first"] = each.values[0]
        texts.append(f"{column} >= :{name}_first")
    if last:
        parameters[f"{name}_last"] = last + after
        texts.append(f"{column} <= :{name}_last")
    return f"({' AND '.join(texts)})"


def _person(column: str, text: str, name: str, parameters: dict[str, Any], *, fuzzy: bool) -> str:
    if column != "s.patient_name":
        return _named(column, text, name, parameters)
    # An index has all names: reading it is faster than reading studies until a page is full.
    found = f"+s.rowid IN (SELECT n.rowid FROM dicom_studies n WHERE {_named('n.patient_name', text, name, parameters)})"
    words = re.sub(r"[*?^=]", " ", text).strip()
    if not fuzzy or not words:
        return found
    parameters[f"{name}_words"] = expression(words)
    parameters[f"{name}_text"] = words
    return (
        f"({found} OR (s.first_position IN (SELECT rowid FROM dicom_studies_fts WHERE dicom_studies_fts MATCH :{name}_words) "
        f"AND names_person({column}, :{name}_text)))"
    )


def _named(column: str, text: str, name: str, parameters: dict[str, Any]) -> str:
    """Return a condition on a person's name: as a whole, without empty components at the end, or one of its groups."""
    whole = _glob(re.sub(r"\^+$", "", text.strip("=")) or text, ignore_case=True)
    parameters[f"{name}_whole"] = whole
    way = f"{column} GLOB :{name}_whole OR ({column} GLOB '*[=^]' AND rtrim({column}, '^=') GLOB :{name}_whole)"
    if "=" in text:
        return f"({way})"
    groups = {"first": f"{whole}=*", "last": f"*={whole}", "middle": f"*={whole}=*"}
    parameters |= {f"{name}_{each}": pattern for each, pattern in groups.items()}
    in_a_group = " OR ".join(f"{column} GLOB :{name}_{each}" for each in groups)
    return f"({way} OR ({column} GLOB '*=*' AND ({in_a_group})))"


def _glob(text: str, *, ignore_case: bool = False) -> str:
    """Return a GLOB pattern for a DICOM pattern."""
    found = []
    for letter in text:
        if letter == "[":
            found.append("[[]")
        elif ignore_case and letter.lower() != letter.upper() and len(letter.lower()) == len(letter.upper()) == 1:
            found.append(f"[{letter.lower()}{letter.upper()}]")
        else:
            found.append(letter)
    return "".join(found)
