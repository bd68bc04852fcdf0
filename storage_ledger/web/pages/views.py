"""Our pages: an address → queries on both databases → a template and its variables.

Nothing here depends on Datasette: `datasette/routes.py` checks access and renders.
"""

from __future__ import annotations

import os.path
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from storage_ledger.domain.ids import rfc3339
from storage_ledger.operations.verify.unrecorded_result import Unrecorded
from storage_ledger.web.datasette.cells import size
from storage_ledger.web.files.proofs import StudyProofs
from storage_ledger.web.pages import attention, dicom_study, home, ledger_entries, needs, pipeline_study, report, study_list, unarchived
from storage_ledger.web.pages.formatting import SEXES, day, time
from storage_ledger.web.pages.service_state import ServiceState


class Databases(Protocol):
    """Runs a page's queries."""

    async def __call__(self, database: str, question: Callable[[Any], Any]) -> Any:
        """Run `question` with a connection to that database in another thread, and return its result."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request: the decoded parts of its path, and its arguments."""

    place: Mapping[str, str]
    arguments: Mapping[str, str]
    databases: Databases
    may_sql: bool = False
    service: ServiceState = field(default_factory=ServiceState)
    """Whether `storage-ledger serve` works."""
    unrecorded: Unrecorded | None = None
    """What `verify` found and could not record in the ledger."""
    proofs: StudyProofs | None = None
    """What makes proofs."""


@dataclass(frozen=True, slots=True)
class Page:
    """What to show. `name` is also the class of the page's body: `home`, `study` …"""

    name: str
    title: str
    context: dict[str, Any] = field(default_factory=dict)
    status: int = 200


async def start(request: PageRequest) -> Page:
    """Home page, `/`."""
    index = await request.databases("index", partial(home.of_index, today=datetime.now(UTC).date()))
    book = await request.databases("ledger", home.of_ledger)
    service = {"service": request.service, "reasons": attention.of_service(request.service, needs.known(book))}
    count = needs.count(index, book, request.service, request.unrecorded)
    book["found"] += request.unrecorded.counts.total() if request.unrecorded else 0
    return Page("home", "Home", {**index, **book, **service, "needs": count})


async def state(_: PageRequest) -> Page:
    """The state in the head of every page alone, `/state`: a script fetches it every 15 seconds."""
    return Page("state", "State")


async def studies(request: PageRequest) -> Page:
    """List of DICOM studies, `/dicom`."""
    wanted = study_list.ListRequest.of(request.arguments, datetime.now(UTC).date())
    found = await request.databases("index", partial(study_list.of_index, wanted=wanted))
    narrowed = found["total"] or wanted.filters
    outside = {"rows": [], "total": 0}
    if wanted.page == 1:
        outside = await request.databases("index", partial(unarchived.of_index, terms=wanted.terms, archived=not narrowed))
    exported = {
        **_exported(wanted, found["named"]),
        "institution_name": wanted.chosen.get("institution"),
        "year": wanted.chosen.get("year"),
        "modalities__contains": wanted.chosen.get("modality"),
        "flagged__gt": "0" if wanted.condition == "flagged" else "",
        "study_date__gte": wanted.first_day.replace("-", ""),
        "study_date__lte": wanted.last_day.replace("-", ""),
    }
    query = urlencode({name: value for name, value in exported.items() if value and value != study_list.NONE})
    sorts = {
        name: {"title": title, "chosen": name == wanted.sort, "way": wanted.way,
               "href": wanted.address(sort=name, way=("asc" if wanted.way == "desc" else "desc") if name == wanted.sort else way)}
        for name, (title, _, way) in study_list.SORTS.items()
    }  # fmt: skip
    context = {**found, "outside": outside, "wanted": wanted, "sorts": sorts, "export": query, "may_sql": request.may_sql}
    context |= {"presets": study_list.PRESETS, "exportable": wanted.condition in {"", "flagged"}}
    return Page("studies", "Studies", context)


def _exported(wanted: study_list.ListRequest, named: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the search as arguments for Datasette's tables: its words, and the studies that match every term naming one."""
    words = " ".join(term.text for term in wanted.terms if term.text not in named)
    uids = sorted(set[str].intersection(*map(set, named.values()))) if named else []
    return {"_search": words, "study_instance_uid" if len(uids) == 1 else "study_instance_uid__in": ",".join(uids)}


async def dicom(request: PageRequest) -> Page:
    """One DICOM study, `/dicom/<study_instance_uid>`."""
    uid = request.place["uid"]
    page = request.arguments.get("page", "")
    number = int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 6 else 1
    find = partial(
        dicom_study.of_index, uid=uid, series_uid=request.arguments.get("series"), chosen=request.arguments.get("file"), page=max(number, 1)
    )
    found = await request.databases("index", find)
    waiting = await request.databases("index", partial(dicom_study.waiting, uid=uid))
    if found is None:
        return Page("nothing", "No such study", {"what": "DICOM study", "name": uid, "waiting": waiting}, 404)
    name = found["study"]["person"].text or "No name"
    segment = quote(uid, safe="")
    hrefs = {"zip_href": f"/zip/{segment}", "proof_href": f"/proof/{segment}", "report_href": f"/dicom/{segment}/report"}
    unproved = await _unproved(request, found["last_position"])
    return Page("study", name, {**found, "uid": uid, "waiting": waiting, **hrefs, "unproved": unproved})


async def pipeline(request: PageRequest) -> Page:
    """One pipeline study, `/studies/<study_id>`."""
    study_id = request.place["study_id"]
    history = await request.databases("ledger", partial(pipeline_study.of_ledger, study_id=study_id))
    if not history["entries"] and not history["rejected"]:
        return Page("nothing", "No such study", {"what": "pipeline study", "name": study_id, "waiting": []}, 404)
    known = await request.databases("index", partial(pipeline_study.of_index, study_id=study_id))
    if history["is_cut"] and known["study"]:
        history |= {"state": known["study"]["state"], "told": known["study"]["status_sent"]}
    segment = quote(study_id, safe="")
    hrefs = {"zip_href": f"/zip-study/{segment}", "proof_href": f"/proof-study/{segment}", "report_href": f"/studies/{segment}/report"}
    unproved = await _unproved(request, history["entries"][-1]["position"] if history["entries"] else None)
    return Page("pipeline", f"Pipeline study {study_id}", {**history, **known, "study_id": study_id, **hrefs, "unproved": unproved})


async def _unproved(request: PageRequest, position: int | None) -> str:
    """Return why the entries up to this position cannot be proved now; empty if they can."""
    return "" if request.proofs is None else await request.proofs.refusal(position)


async def pipeline_report(request: PageRequest) -> Page:
    """The printable report about a pipeline study, `/studies/<study_id>/report`."""
    study_id = request.place["study_id"]
    known = await request.databases("index", partial(report.of_pipeline_study, study_id=study_id))
    return await _report(request, f"Pipeline study {study_id}", [study_id], {**known, "study_href": f"/studies/{quote(study_id, safe='')}"})


async def dicom_report(request: PageRequest) -> Page:
    """The printable report about a DICOM study, `/dicom/<study_instance_uid>/report`."""
    uid = request.place["uid"]
    known = await request.databases("index", partial(report.of_dicom_study, uid=uid))
    return await _report(request, f"DICOM study {uid}", known["studies"], {**known, "study_href": f"/dicom/{quote(uid, safe='')}"})


async def _report(request: PageRequest, title: str, studies: Sequence[str], known: dict[str, Any]) -> Page:
    if request.proofs is None:
        raise RuntimeError("a report needs what makes proofs")
    made = await report.of_studies(request.proofs, studies)
    if made is None:
        return Page("nothing", "No such study", {"what": "study", "name": title, "waiting": []}, 404)
    return Page("report", f"Report: {title}", {**known, **made, "title": title, "made_at": rfc3339(datetime.now(UTC))})


async def needs_attention(request: PageRequest) -> Page:
    """Everything that needs attention, `/attention`."""
    index = await request.databases("index", attention.of_index)
    book = await request.databases("ledger", attention.of_ledger)
    unrecorded = attention.unrecorded(request.unrecorded) if request.unrecorded else []
    service = {"service": request.service, "reasons": attention.of_service(request.service, needs.known(book))}
    return Page("attention", "Needs attention", {**index, **book, **service, "unrecorded": unrecorded})


async def entry(request: PageRequest) -> Page:
    """One ledger entry, `/ledger/entries/<position>`."""
    position = int(request.place["position"])
    found = await request.databases("ledger", partial(ledger_entries.entry, position=position))
    if found is None:
        return Page("nothing", "No such entry", {"what": "ledger entry", "name": str(position), "waiting": []}, 404)
    return Page("entry", f"Entry {position}", found)


View = Callable[[PageRequest], Awaitable[Page]]

ROUTES: tuple[tuple[str, View], ...] = (
    (r"/$", start),
    (r"/state$", state),
    (r"/dicom$", studies),
    (r"/dicom/(?P<uid>[^/]+)$", dicom),
    (r"/dicom/(?P<uid>[^/]+)/report$", dicom_report),
    (r"/studies/(?P<study_id>[^/]+)$", pipeline),
    (r"/studies/(?P<study_id>[^/]+)/report$", pipeline_report),
    (r"/attention$", needs_attention),
    (r"/ledger/entries/(?P<position>[0-9]{1,18})$", entry),
)
"""Paths as received, not decoded."""


def duration(seconds: float) -> str:
    """Format a duration: `0.031 s`, `4.2 s`, `12 min`, `3 h`, `5 d`."""
    for most, unit in ((120, "s"), (7200, "min"), (172_800, "h")):
        if seconds < most:
            return (
                f"{seconds:.3f} s"
                if seconds < 1
                else f"{seconds:.1f} s"
                if unit == "s"
                else f"{seconds / (60 if unit == 'min' else 3600):.0f} {unit}"
            )
    return f"{seconds / 86_400:.0f} d"


FILTERS: dict[str, Callable[..., str]] = {
    "size": size,
    "day": day,
    "clock": time,
    "sex": lambda value: SEXES.get(value or "", value or ""),
    "segment": lambda value: quote(str(value), safe=""),
    "count": lambda value: f"{value:,}",
    "duration": duration,
    "entry_summary": ledger_entries.summary_of_row,
    "suffix": lambda name: os.path.splitext(name)[1],
}
"""Template filters."""
