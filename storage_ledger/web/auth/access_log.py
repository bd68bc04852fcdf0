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
from typing import Any
from urllib.parse import parse_qs, unquote

from datasette.utils import tilde_decode  # type: ignore[import-untyped] # it ships no types
from starlette.types import Scope

from storage_ledger.domain.paths import valid_study_id
from storage_ledger.system import logs
from storage_ledger.web.files.lookup import FileLookup

ONCE_IN_S = 60.0
"""Repeated requests within this time are logged once, so that paging through a study does not write 300 lines."""

REMEMBERED = 10_000
_KEY = "storage_ledger.looked"
_STUDY = re.compile(r"/(?:studies|index/studies)/([^/]+?)(?:\.json)?/?")
_FILE = re.compile(r"/index/files/([^/,]+),[^/]+?(?:\.json)?/?")
_DICOM_STUDY = re.compile(r"/(?:dicom|index/dicom_studies)/([^/]+?)(?:\.json)?/?")
_ENTRY = re.compile(r"/ledger/entries/([0-9]{1,18})(?:\.json)?/?")
_ROUTES = re.compile(
    r"/(image|header|metadata|file|zip|zip-study|studies|dicom|attention|index/[a-z_]+|ledger/[a-z_]+|index|ledger)(?=[/.]|$)"
)


def record_view(scope: Scope, *, study_id: str | None = None, position: int | None = None) -> None:
    """Record which study the response shows. `position`: that of the first entry of a DICOM study."""
    scope[_KEY].update(study_id=study_id, position=position)


class AccessLog:
    """Writes the access log. `lookup` finds studies in the index; `clock` returns seconds."""

    def __init__(self, lookup: FileLookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._last: OrderedDict[tuple[Any, ...], float] = OrderedDict()

    def begin(self, scope: Scope) -> None:
        """Prepare the scope for `record_view`. Call it before the routes run."""
        scope[_KEY] = {}

    async def end(self, scope: Scope, path: str, actor: str, status: int) -> None:
        """Log a request that showed data. Call it when the response starts."""
        found = _ROUTES.match(path)
        if found is None and path not in {"/", "/.json"}:
            return
        route = found[1] if found else "home"
        viewed: dict[str, Any] = scope[_KEY] or await self._study_at(scope, path)
        if route == "image" and not viewed:
            return  # a thumbnail: the page that contains it is logged
        what = (actor, route, viewed.get("study_id"), viewed.get("position"), status)
        if route in {"image", "header", "home"} and self._logged_recently(what):
            return
        fields = {name: value for name, value in viewed.items() if value is not None}
        logs.get().info("browse.looked", actor=actor, route=route, http_status=status, **fields)

    async def _study_at(self, scope: Scope, path: str) -> dict[str, Any]:
        """Return the study that an address names, for Datasette's own pages."""
        if found := _STUDY.fullmatch(path) or _FILE.fullmatch(path):
            return await self._if_known(_plain(found[1]))
        if found := _DICOM_STUDY.fullmatch(path):
            return {"position": await self._lookup.first_position(_plain(found[1]))}
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


def _plain(text: str) -> str:
    return unquote(tilde_decode(text))
