"""Searches (QIDO-RS, PS3.18 §10.6): one page of studies, series or instances from the index."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage_ledger.web.dicomweb.attributes import OF_INSTANCE, OF_SERIES, OF_STUDY, RETURNED, Matched, QueryLevel, answer
from storage_ledger.web.dicomweb.matching import BY_KEY, KEY, ONE_OF_EACH, tables, where
from storage_ledger.web.dicomweb.query import MAX_RESULTS, SearchRequest
from storage_ledger.web.files.lookup import Query

_PAGES_FOR_S = 600.0
_PAGERS = 1_000

_INSTANCES = "SELECT count(DISTINCT sop_instance_uid) FROM files f WHERE f.superseded = 0 AND f.series_instance_uid IS NOT NULL AND "

_ORDER: Mapping[QueryLevel, str] = {
    "studies": "s.first_position DESC",
    "series": "s.first_position DESC, e.series_number, e.series_instance_uid",
    "instances": "s.first_position DESC, e.series_number, f.series_instance_uid, f.instance_number, f.position",
}
# What had not arrived when the first page was read is left out of the later ones, which would otherwise move.
_UNTIL: Mapping[QueryLevel, str] = {
    "studies": "s.first_position <= :until",
    "series": "EXISTS (SELECT 1 FROM files g WHERE g.study_instance_uid = e.study_instance_uid "
    "AND g.series_instance_uid = e.series_instance_uid AND g.position <= :until)",
    "instances": "f.position <= :until",
}
_FIRST_FILE: Mapping[QueryLevel, str] = {
    "studies": "s.first_position",
    "series": "(SELECT min(position) FROM files g WHERE g.study_instance_uid = e.study_instance_uid "
    "AND g.series_instance_uid = e.series_instance_uid)",
    "instances": "f.position",
}
_COUNTS: Mapping[QueryLevel, Mapping[str, str]] = {
    "studies": {
        "NumberOfStudyRelatedSeries": "s.series",
        "NumberOfStudyRelatedInstances": f"({_INSTANCES} f.study_instance_uid = s.study_instance_uid)",
    },
    "series": {
        "NumberOfSeriesRelatedInstances": f"({_INSTANCES} f.study_instance_uid = e.study_instance_uid "
        "AND f.series_instance_uid = e.series_instance_uid)",
    },
    "instances": {},
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a search looks. UIDs of the path; None: everywhere."""

    level: QueryLevel
    study: str | None = None
    series: str | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The objects of an answer, and whether there are more than it holds."""

    found: list[dict[str, Any]]
    cut: bool


class Search:
    """Runs searches. `index` and `ledger` run queries on the two databases."""

    def __init__(self, index: Query, ledger: Query) -> None:
        self._index = index
        self._ledger = ledger
        self._pagers: OrderedDict[tuple[str, Scope, SearchRequest], tuple[float, int]] = OrderedDict()

    async def run(self, scope: Scope, request: SearchRequest, base: str, asker: str) -> SearchResult:
        """Return one page, newest study first. `base`: URL of the service; `asker`: whose pages these are."""
        most = MAX_RESULTS if request.limit is None else min(request.limit, MAX_RESULTS)
        if most == 0:
            return SearchResult([], cut=False)
        columns = _columns(scope)
        conditions, parameters = where(scope.level, request)
        if (until := await self._until(scope, request, asker)) is not None:
            conditions.append(_UNTIL[scope.level])
            parameters["until"] = until
        for uid, column in ((scope.study, _column(scope.level, "study")), (scope.series, _column(scope.level, "series"))):
            if uid is not None:
                name = f"in_{len(parameters)}"
                conditions.append(f"{column} = :{name}")
                parameters[name] = uid
        if scope.level == "instances":
            conditions.append(ONE_OF_EACH)
        rows = await self._index(_sql(scope, request, columns, conditions), {**parameters, "most": most + 1, "offset": request.offset})
        headers = await self._headers([row["first_file"] for row in rows[:most]])
        found = await asyncio.to_thread(_answers, scope, request, rows[:most], headers, base)  # half a second for 5,000
        return SearchResult(found, cut=request.limit != most and len(rows) > most)

    async def _until(self, scope: Scope, request: SearchRequest, asker: str) -> int | None:
        """Return the last file that the pages of this search may show; None if this is not a further page of a recent one."""
        if request.limit is None:
            return None
        of = SearchRequest(request.conditions, fuzzy=request.fuzzy)
        now = time.monotonic()
        if request.offset:
            begun, until = self._pagers.get((asker, scope, of), (0.0, 0))
            return until if until and now - begun < _PAGES_FOR_S else None
        rows = await self._index("SELECT max(position) AS last FROM files", {})
        last = int(rows[0]["last"] or 0)
        self._pagers.pop((asker, scope, of), None)
        self._pagers[asker, scope, of] = (now, last)
        while len(self._pagers) > _PAGERS:
            self._pagers.popitem(last=False)
        return last

    async def _headers(self, positions: list[int]) -> dict[int, dict[str, Any]]:
        """Return the header attributes that the ledger has of these files, by the position of their `archived` entry."""
        if not positions:
            return {}
        rows = await self._ledger(
            "SELECT position, json_extract(payload, '$.dicom') AS header FROM entries "
            "WHERE position IN (SELECT value FROM json_each(:those))",
            {"those": json.dumps(positions)},
        )
        return {row["position"]: json.loads(row["header"]) for row in rows if row["header"]}


def _sql(scope: Scope, request: SearchRequest, columns: Mapping[str, str], conditions: Sequence[str]) -> str:
    """Return the query: first the keys of the page, then the columns of these results only, because some are counts."""
    order = _ORDER[scope.level]
    found = tables(scope.level, request, in_a_study=scope.study is not None)
    selected = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    return (
        f"WITH page AS MATERIALIZED (SELECT {KEY[scope.level]} FROM {found} WHERE {' AND '.join(conditions) or 'true'} "  # noqa: S608 - our own names
        f"ORDER BY {order} LIMIT :most OFFSET :offset) SELECT {selected} FROM page CROSS JOIN {BY_KEY[scope.level]} ORDER BY {order}"
    )


def _answers(
    scope: Scope, request: SearchRequest, rows: Sequence[Mapping[str, Any]], headers: Mapping[int, Mapping[str, Any]], base: str
) -> list[dict[str, Any]]:
    """Return the objects of an answer. `headers`: what the ledger has of each result's first file."""
    others = {name for level in _COUNTS if level != scope.level for name in _COUNTS[level]}  # they would be counted for each result
    keywords = [keyword for level in _levels(scope) for keyword in RETURNED[level] if keyword not in others]
    found = []
    for row in rows:
        header = headers.get(row["first_file"], {})
        values = {**header, **{name: value for name, value in row.items() if value is not None}}
        values["RetrieveURL"] = _url(base, scope.level, values)
        values["InstanceAvailability"] = "UNAVAILABLE" if row["fixity"] in {"missing", "changed"} else "ONLINE"
        if values.get("ModalitiesInStudy"):
            values["ModalitiesInStudy"] = str(values["ModalitiesInStudy"]).split(", ")
        if row.get("RequestAttributesSequence"):
            values["RequestAttributesSequence"] = json.loads(row["RequestAttributesSequence"])
        more = [each for each in header if each not in _NOT_RETURNED] if request.include_all else []
        wanted = [each for each in request.include if each in values or each in _KNOWN]
        found.append(answer(values, dict.fromkeys([*keywords, *wanted, *more])))
    return found


_NOT_RETURNED = frozenset({"SpecificCharacterSet", "TransferSyntaxUID"})
"""Not of the data set, or of the file's own encoding."""

_KNOWN = frozenset(OF_STUDY) | frozenset(OF_SERIES) | frozenset(OF_INSTANCE)


def _levels(scope: Scope) -> list[QueryLevel]:
    """Return the levels whose attributes an answer has: those above only if the path does not name them (§10.6.3.3)."""
    match scope.level:
        case "studies":
            return ["studies"]
        case "series":
            return ["series"] if scope.study else ["studies", "series"]
        case "instances":
            above: list[QueryLevel] = [] if scope.study else ["studies"]
            return [*above, *([] if scope.series else ["series"]), "instances"]  # type: ignore[list-item] # mypy widens the literal


def _columns(scope: Scope) -> dict[str, str]:
    """Return keyword → SQL of what is selected."""
    of: dict[str, Matched] = dict(OF_STUDY)
    if scope.level != "studies":
        of |= OF_SERIES
    if scope.level == "instances":
        of |= OF_INSTANCE
    found = {**{keyword: matched.column for keyword, matched in of.items()}, **_COUNTS[scope.level]}
    if scope.level != "studies":
        found["RequestAttributesSequence"] = "e.request_attributes"
    if scope.level == "instances":  # a file's own values, where its series has other ones
        found |= {"SeriesInstanceUID": "f.series_instance_uid", "Modality": "coalesce(f.modality, e.modality)"}
    return found | {"first_file": _FIRST_FILE[scope.level], "fixity": "f.fixity" if scope.level == "instances" else "NULL"}


def _column(level: QueryLevel, of: str) -> str:
    if of == "study":
        return {"studies": "s.study_instance_uid", "series": "e.study_instance_uid", "instances": "f.study_instance_uid"}[level]
    return "e.series_instance_uid" if level == "series" else "f.series_instance_uid"


def _url(base: str, level: QueryLevel, values: Mapping[str, Any]) -> str:
    url = f"{base}/studies/{values['StudyInstanceUID']}"
    if level != "studies":
        url += f"/series/{values['SeriesInstanceUID']}"
    return f"{url}/instances/{values['SOPInstanceUID']}" if level == "instances" else url
