"""A log of who viewed which study, without patient data.

A pipeline study is logged by its study_id, a DICOM study by the position of its first ledger entry: its UID would identify it
to anyone who knows that UID. For searches, filters and SQL only the route is logged, since the query may contain a patient's
name.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qs, unquote

from datasette.utils import tilde_decode  # type: ignore[import-untyped] # it ships no types
from starlette.types import Scope

from storage_ledger.domain.paths import valid_study_id
from storage_ledger.system import logs
from storage_ledger.system.addresses import network_of
from storage_ledger.web.files.lookup import FileLookup

ONCE_IN_S = 60.0
"""Repeated requests within this time are logged once, so that paging through a study does not write 300 lines."""

REMEMBERED = 10_000
ASKER: ContextVar[str] = ContextVar("asker", default="")
"""Whose request this is, as `asker_of` says, for code that has no scope."""

_KEY = "storage_ledger.looked"
_ASKER = "storage_ledger.asker"
_FORMAT = r"(?:\.\w+)?/?"  # `.json`, `.csv`, `.blob`: Datasette's rows have several
_STUDIES = (
    re.compile(r"/studies/([^/]+?)(?:\.json|/report)?/?"),
    re.compile(rf"/index/studies/([^/]+?){_FORMAT}"),
    re.compile(rf"/index/files/([^/,]+),[^/]+?{_FORMAT}"),
)
_DICOM_STUDIES = (re.compile(r"/dicom/([^/]+?)(?:\.json|/report)?/?"), re.compile(rf"/index/dicom_studies/([^/]+?){_FORMAT}"))
_ENTRY = re.compile(rf"/ledger/entries/([0-9]{{1,18}}){_FORMAT}")
_ROUTES = re.compile(
    r"/(dicom-web|image|header|metadata|file|zip|zip-study|proof|proof-study|studies|dicom|attention|index/[a-z_]+|ledger/[a-z_]+|"
    r"index|ledger)(?=[/.]|$)"
)


def record_view(scope: Scope, *, study_id: str | None = None, position: int | None = None) -> None:
    """Record which study the response shows. `position`: that of the first entry of a DICOM study."""
    scope[_KEY].update(study_id=study_id, position=position)


def asker_of(scope: Scope) -> str:
    """Return who asks: the actor and the address, since several people may share either."""
    return str(scope[_ASKER])


class AccessLog:
    """Writes the access log. `lookup` finds studies in the index; `clock` returns seconds."""

    def __init__(self, lookup: FileLookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._last: OrderedDict[tuple[Any, ...], float] = OrderedDict()

    def begin(self, scope: Scope, actor: str) -> None:
        """Prepare the scope for `record_view` and `asker_of`. Call it before the routes run."""
        scope[_KEY] = {}
        scope[_ASKER] = f"{actor} {network_of(str((scope.get('client') or ('',))[0]))}"
        ASKER.set(scope[_ASKER])

    async def end(self, scope: Scope, path: str, actor: str, status: int) -> None:
        """Log a request that showed data. Call it when the response starts."""
        found = _ROUTES.match(path)
        if found is None and path not in {"/", "/.json"}:
            return
        route = found[1] if found else "home"
        viewed: dict[str, Any] = scope[_KEY] or await self._study_at(scope, path)
        what = (actor, route, viewed.get("study_id"), viewed.get("position"), status)
        if route in {"image", "header", "home", "dicom-web"} and self._logged_recently(what):
            return
        fields = {name: value for name, value in viewed.items() if value is not None}
        logs.get().info("browse.looked", actor=actor, route=route, http_status=status, **fields)

    async def _study_at(self, scope: Scope, path: str) -> dict[str, Any]:
        """Return the study that an address names, for Datasette's own pages."""
        if study_id := _named(_STUDIES, path):
            return await self._if_known(study_id)
        if uid := _named(_DICOM_STUDIES, path):
            return {"position": await self._lookup.first_position(uid)}
        if found := _ENTRY.fullmatch(path):
            return {"position": int(found[1])}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        for name in ("study_id", "study_id__exact"):
            if len(query.get(name, [])) == 1:
                return await self._if_known(query[name][0])
        for name in ("study_instance_uid", "study_instance_uid__exact"):
            if len(query.get(name, [])) == 1:
                return {"position": await self._lookup.first_position(query[name][0])}
        return {}

    async def _if_known(self, study_id: str) -> dict[str, Any]:
        """Return the study_id if the index has it. Text that a user typed may be a patient's name and is not logged."""
        return {"study_id": study_id} if valid_study_id(study_id) and await self._lookup.knows(study_id) else {}

    def _logged_recently(self, what: tuple[Any, ...]) -> bool:
        now = self._clock()
        last = self._last.get(what)
        if last is not None and now - last < ONCE_IN_S:
            return True
        self._last[what] = now
        self._last.move_to_end(what)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return False


def _named(addresses: tuple[re.Pattern[str], ...], path: str) -> str | None:
    """Return the name in an address of one of these forms, decoded."""
    found = next((match for address in addresses if (match := address.fullmatch(path))), None)
    return None if found is None else unquote(tilde_decode(found[1]))
