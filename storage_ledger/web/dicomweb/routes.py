"""The addresses of DICOMweb (PS3.18 §10.4, §10.6), in front of the Datasette app. ROOT/…:

studies   studies/ST/series   series   studies/ST/instances   studies/ST/series/SE/instances   instances         searches
studies/ST[/series/SE[/instances/I]]                                                                            the files
  …/metadata   …/rendered   …/thumbnail
studies/ST/series/SE/instances/I/frames/1,2[/rendered | /thumbnail]       …/bulkdata/TAG[/ITEM/TAG…]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from storage_ledger.web.auth.access_log import asker_of, record_view
from storage_ledger.web.dicomweb import pixels, query
from storage_ledger.web.dicomweb.accept import XML, data_set_type
from storage_ledger.web.dicomweb.answers import Address, Refused, accepted_by, not_acceptable, warning
from storage_ledger.web.dicomweb.attributes import QueryLevel
from storage_ledger.web.dicomweb.instances import UID, Instance, Instances, Named
from storage_ledger.web.dicomweb.metadata import metadata
from storage_ledger.web.dicomweb.multipart import Multipart
from storage_ledger.web.dicomweb.public_url import ROOT
from storage_ledger.web.dicomweb.rendered import rendered, thumbnail
from storage_ledger.web.dicomweb.retrieve import Sources, instances
from storage_ledger.web.dicomweb.search import Scope, Search
from storage_ledger.web.files.pictures.native_model import native_model

_STUDY = "/studies/{study}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_FRAMES = f"{_INSTANCE}/frames/{{frames}}"

Handler = Callable[[Request], Awaitable[Response]]


class DicomWeb:
    """The routes. `address` returns the URL of the service, as the client of a request knows it."""

    def __init__(self, search: Search, found: Instances, sources: Sources, address: Address) -> None:
        self._search = search
        self._found = found
        self._sources = sources
        self._address = address

    def before(self, app: ASGIApp) -> Router:
        """Return a router with these routes; all other addresses go to `app`."""
        routes = [
            *((path, self._searched(level)) for path, level in _SEARCHES),
            *((path, self.instances) for path in (_STUDY, _SERIES, _INSTANCE)),
            *((f"{path}/metadata", self.metadata) for path in (_STUDY, _SERIES, _INSTANCE)),
            *((f"{path}/rendered", self.rendered) for path in (_STUDY, _SERIES, _INSTANCE, _FRAMES)),
            *((f"{path}/thumbnail", self.thumbnail) for path in (_STUDY, _SERIES, _INSTANCE, _FRAMES)),
            (_FRAMES, self.frames),
            (f"{_INSTANCE}/bulkdata/{{path:path}}", self.bulk_data),
            ("/{rest:path}", self.nothing),
            ("", self.nothing),
        ]
        return Router([Route(ROOT + path, _answered(answer)) for path, answer in routes], redirect_slashes=False, default=app)

    def _searched(self, level: QueryLevel) -> Handler:
        async def search(request: Request) -> Response:
            media_type = data_set_type(accepted_by(request))
            if media_type is None:
                raise not_acceptable("results are application/dicom+json or application/dicom+xml in parts")
            try:
                asked = query.parse(request.query_params.multi_items())
            except ValueError as error:
                raise Refused(400, str(error)) from None
            where = Scope(level, *(_uid(request, name) for name in ("study", "series")))
            result = await self._search.run(where, asked, self._address(request), asker_of(request.scope))
            texts = [f"Not supported, and ignored: {name}" for name in asked.unsupported]
            if result.cut:
                texts.append(f"There are more results than the {query.MAX_RESULTS} of one answer: ask for the others with offset")
            if media_type == XML:
                return _in_parts(result.found, warning(texts))
            return JSONResponse(result.found, 200, warning(texts), media_type)

        return search

    async def instances(self, request: Request) -> Response:
        """Return a study, series or instance as files."""
        return await instances(request, await self._named(request), self._sources, self._address(request))

    async def metadata(self, request: Request) -> Response:
        """Return the data sets of a study, series or instance."""
        return await metadata(request, await self._named(request), self._sources, self._address(request))

    async def rendered(self, request: Request) -> Response:
        """Return images of a study, series, instance or frames."""
        numbers = pixels.frame_numbers(request.path_params.get("frames", "1"))
        return await rendered(request, await self._named(request), self._sources, self._address(request), numbers)

    async def thumbnail(self, request: Request) -> Response:
        """Return a small image of a study, series, instance or frame."""
        number = pixels.frame_numbers(request.path_params.get("frames", "1"))[0]
        return await thumbnail(request, await self._named(request), self._sources, number)

    async def frames(self, request: Request) -> Response:
        """Return frames."""
        numbers = pixels.frame_numbers(request.path_params["frames"])
        return await pixels.frames(request, await self._one(request), self._sources, self._address(request), numbers)

    async def bulk_data(self, request: Request) -> Response:
        """Return one value of an instance."""
        path = request.path_params["path"]
        return await pixels.bulk_data(request, await self._one(request), self._sources, self._address(request), path)

    async def nothing(self, _: Request) -> Response:
        """Return 404 for an unknown address of ours, which Datasette would redirect."""
        raise Refused(404, f"No such resource. Searches begin at {ROOT}/studies.")

    async def _named(self, request: Request) -> Sequence[Instance]:
        study, series, instance = (_uid(request, name) for name in ("study", "series", "instance"))
        if study is None:
            return []
        found = await self._found.find(Named(study, series, instance))
        if found:
            record_view(request.scope, position=min(each.position for each in found))
        return found

    async def _one(self, request: Request) -> Instance | None:
        return next(iter(await self._named(request)), None)


_SEARCHES: tuple[tuple[str, QueryLevel], ...] = (
    ("/studies", "studies"),
    ("/series", "series"),
    (f"{_STUDY}/series", "series"),
    ("/instances", "instances"),
    (f"{_STUDY}/instances", "instances"),
    (f"{_SERIES}/instances", "instances"),
)


def _in_parts(found: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> Response:
    """Return results as XML, each in a part; 204 without any (§8.6.1.2, §10.6.3)."""
    if not found:
        return Response(status_code=204, headers=headers)
    whole = Multipart(XML)
    first, between, last = whole.around()
    return Response(first + between.join(map(native_model, found)) + last, 200, headers, whole.media_type)


def _uid(request: Request, name: str) -> str | None:
    """Return the UID that the path has there; None without one. Raises `Refused`."""
    uid: str | None = request.path_params.get(name)
    if uid is not None and not UID.fullmatch(uid):
        raise Refused(400, f"The {name} of this address is not a UID.")
    return uid


def _answered(answer: Handler) -> Handler:
    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except Refused as error:
            return error.response()

    return answered
