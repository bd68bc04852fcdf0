"""Routes that read the archive: images, headers, metadata.json, files and ZIP files. Behind the access check, before Datasette.

/image/<study_id>/<name>?size=128&frame=0&window=<centre>,<width>      an image, or a placeholder
/image/<study_id>/<name>/about                                         frames and windows, or why there is no image
/header/<study_id>/<name>     /metadata/<study_id>                     JSON
/file/<study_id>/<name>       /zip/<study_instance_uid>     /zip-study/<study_id>
                              /proof/<study_instance_uid>   /proof-study/<study_id>
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
from collections.abc import Awaitable, Callable, Generator
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from storage_ledger.errors import ProofError, Retryable
from storage_ledger.web.auth.access_log import asker_of, record_view
from storage_ledger.web.files.http_ranges import ByteRange, is_current, requested_range
from storage_ledger.web.files.lookup import FileLookup, IndexedFile
from storage_ledger.web.files.pictures import MAX_FRAME, SIZES, WHY, Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.cache import Cache
from storage_ledger.web.files.pictures.pool import Pool
from storage_ledger.web.files.proofs import StudyProofs, reason
from storage_ledger.web.files.renderings import NO_FILE, Renderings, cache_key
from storage_ledger.web.files.zip_stream import PIECE, paths, safe_name, zipped

PRIVATE = "private, max-age=3600"
"""Caching in the user's own browser only; `Vary` ends it with the login."""

_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "json": "application/json"}
_WITHOUT_MORE = ("image", "header", "metadata", "file", "zip-study", "proof-study")
"""Routes with one or two names: what follows them is no address."""
_STATUS = {"file-missing": 404, "archive-missing": 503, "file-unreadable": 503}


class ContentRoutes:
    """The routes, in front of the Datasette app."""

    def __init__(self, lookup: FileLookup, pool: Pool, cache: Cache, proofs: StudyProofs) -> None:
        self._lookup = lookup
        self._proofs = proofs
        self._renderings = Renderings(lookup.open, pool, cache)

    def before(self, app: ASGIApp) -> Router:
        """Return a router with these routes; all other addresses go to `app`."""
        return Router(
            [
                Route("/image/{study_id}/{name}", self.image),
                Route("/image/{study_id}/{name}/about", self.about),
                Route("/header/{study_id}/{name}", self.header),
                Route("/metadata/{study_id}", self.metadata),
                Route("/file/{study_id}/{name}", self.file),
                Route("/zip/{uid:path}", self.zip_of_dicom_study),
                Route("/zip-study/{study_id}", self.zip_of_study),
                Route("/proof/{uid:path}", self.proof_of_dicom_study),
                Route("/proof-study/{study_id}", self.proof_of_study),
                *(Route(f"/{name}/{{rest:path}}", self.nothing) for name in _WITHOUT_MORE),
            ],
            redirect_slashes=False,
            default=app,
        )

    async def image(self, request: Request) -> Response:
        """Return an image. If there is none: 200 with a placeholder, and the reason's code in X-Picture-Why."""
        try:
            wanted = _wanted(request)
        except ValueError as error:
            return _refusal(400, str(error))
        file = await self._file(request)
        if file is None:
            return _not_there()
        record_view(request.scope, study_id=file.study_id)
        key = cache_key(file, wanted)
        if is_current(request.headers, key):
            return Response(status_code=304, headers={**_private(), "ETag": f'"{key}"'})
        try:
            made = await self._made(file, wanted, request)
        except Unavailable as error:
            return Response(
                _placeholder(WHY[error.code]),
                media_type="image/svg+xml",
                headers={"X-Picture-Why": error.code, "Cache-Control": "no-store"},
            )
        return Response(made.data, media_type=_TYPES[made.kind], headers={**_private(), "ETag": f'"{key}"'})

    async def about(self, request: Request) -> Response:
        """Return what a viewer needs to know. If there is no image, `why` is the reason's code and `text` its text.

        `downloadable`: whether the file itself is there. It is opened even if the rest of the answer is cached.
        """
        file = await self._file(request)
        if file is None:
            return _not_there()
        try:
            frame = _whole(request, "frame", 0, MAX_FRAME)
        except ValueError as error:
            return _refusal(400, str(error))
        record_view(request.scope, study_id=file.study_id)
        try:
            await asyncio.to_thread(self._lookup.check, file)  # it says whether the file can be downloaded: the cache cannot know
            made = await self._made(file, RenderRequest("about", frame), request)
        except Unavailable as error:
            downloadable = error.code not in NO_FILE
            return JSONResponse({"frames": 0, "windows": [], "why": error.code, "text": WHY[error.code], "downloadable": downloadable})
        return JSONResponse({**json.loads(made.data), "why": None, "text": "", "downloadable": True})

    async def header(self, request: Request) -> Response:
        """Return a file's header elements. If they cannot be read: no rows, and the reason in `why` and `text`."""
        file = await self._file(request)
        if file is None:
            return _not_there()
        record_view(request.scope, study_id=file.study_id)
        try:
            made = await self._made(file, RenderRequest("header"), request)
        except Unavailable as error:
            return JSONResponse({"rows": [], "cut": False, "why": error.code, "text": WHY[error.code]})
        return Response(made.data, media_type="application/json")

    async def metadata(self, request: Request) -> Response:
        """Return metadata.json exactly as archived."""
        study_id = request.path_params["study_id"]
        if not await self._lookup.knows(study_id):
            return _not_there()
        record_view(request.scope, study_id=study_id)
        try:
            data = await asyncio.to_thread(self._lookup.metadata, study_id)
        except Unavailable as error:
            return _refusal(_STATUS.get(error.code, 409), WHY[error.code], error.code)
        return Response(data, media_type="application/json")

    async def file(self, request: Request) -> Response:
        """Return the archived bytes, or one range of them. If the checksum does not match, the response ends early."""
        file = await self._file(request)
        if file is None:
            return _not_there()
        record_view(request.scope, study_id=file.study_id)
        etag = f'"{file.sha256}"'
        headers = {**_private(), "ETag": etag, "Accept-Ranges": "bytes", "Content-Disposition": attachment(file.name)}
        if is_current(request.headers, file.sha256):
            return Response(status_code=304, headers=headers)
        span = requested_range(request.method, request.headers, file.bytes, etag)
        if span is None:
            return PlainTextResponse(f"The file has only {file.bytes} bytes\n", 416, {"Content-Range": f"bytes */{file.bytes}"})
        try:
            descriptor = await asyncio.to_thread(self._lookup.open, file)
        except Unavailable as error:
            return _refusal(_STATUS.get(error.code, 409), WHY[error.code], error.code)
        headers["Content-Length"] = str(span.count)
        if span.is_partial:
            headers["Content-Range"] = span.content_range
        if request.method == "HEAD":
            os.close(descriptor)
            return Response(headers=headers, media_type="application/dicom")
        opened = os.fdopen(descriptor, "rb", buffering=0)
        pieces = _pieces(opened, span, None if span.is_partial else file.sha256)
        return Streamed(pieces, 206 if span.is_partial else 200, headers, "application/dicom", opened.close)

    async def zip_of_dicom_study(self, request: Request) -> Response:
        """Return a ZIP file of a DICOM study, with one folder per series."""
        uid = request.path_params["uid"]
        files = await self._lookup.of_dicom_study(uid)
        if not files:
            return _not_there()
        record_view(request.scope, position=await self._lookup.first_position(uid))
        name = "-".join(
            filter(None, ("study", _digits(files[0].study_date), safe_name(files[0].modality or ""), safe_name(uid)[-12:].strip(".")))
        )
        return self._zip(request, name, paths(files, series=True), [])

    async def zip_of_study(self, request: Request) -> Response:
        """Return a ZIP file of a pipeline study, with its metadata.json."""
        study_id = request.path_params["study_id"]
        files = await self._lookup.of_study(study_id)
        if not files:
            return _not_there()
        record_view(request.scope, study_id=study_id)
        extra = []
        try:
            extra.append(("metadata.json", await asyncio.to_thread(self._lookup.metadata, study_id)))
        except Unavailable as error:
            extra.append(("metadata.json-IS-MISSING.txt", f"{WHY[error.code]}\n".encode()))
        return self._zip(request, safe_name(study_id), paths(files, series=False), extra)

    async def proof_of_dicom_study(self, request: Request) -> Response:
        """Return the proofs of all pipeline studies with a file of a DICOM study, as a ZIP file."""
        uid = request.path_params["uid"]
        studies = await self._lookup.studies_of_dicom_study(uid)
        record_view(request.scope, position=await self._lookup.first_position(uid))
        return await self._proof(request, studies, f"proof-{safe_name(uid)[-24:].strip('.')}")

    async def proof_of_study(self, request: Request) -> Response:
        """Return the proofs of a pipeline study, as a ZIP file."""
        study_id = request.path_params["study_id"]
        if await self._lookup.knows(study_id):
            record_view(request.scope, study_id=study_id)
        return await self._proof(request, [study_id], f"proof-{safe_name(study_id)}")

    async def _proof(self, request: Request, studies: list[str], name: str) -> Response:
        try:
            data = await self._proofs.zip_of(studies, name)
        except ProofError as error:
            return _refusal(409, reason(error), error.code)
        except Retryable as error:
            return _refusal(503, reason(error), error.code)
        if data is None:
            return _not_there()
        headers = {"Content-Disposition": attachment(f"{name}.zip"), "Cache-Control": "no-store"}
        return Response(b"" if request.method == "HEAD" else data, media_type="application/zip", headers=headers)

    async def nothing(self, _: Request) -> Response:
        """Return 404 for an unknown address below our routes, which Datasette would redirect."""
        return _not_there()

    def _zip(self, request: Request, name: str, files: list[tuple[str, IndexedFile]], extra: list[tuple[str, bytes]]) -> Response:
        headers = {"Content-Disposition": attachment(f"{name}.zip")}
        if request.method == "HEAD":
            return Streamed(_none(), 200, headers, "application/zip")
        return Streamed(zipped(files, self._lookup.open, extra), 200, headers, "application/zip")

    async def _made(self, file: IndexedFile, wanted: RenderRequest, request: Request) -> Rendered:
        return await unless_gone(request, self._renderings.get(file, wanted, asker_of(request.scope)))

    async def _file(self, request: Request) -> IndexedFile | None:
        return await self._lookup.file(request.path_params["study_id"], request.path_params["name"])


async def unless_gone(request: Request, making: Awaitable[Rendered]) -> Rendered:
    """Await `making`; cancel it if the client hangs up first."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = making_, leaving = asyncio.ensure_future(making), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not making_.done():
            raise Unavailable("pictures-busy")  # nobody will read it
        return making_.result()
    finally:
        making_.cancel()
        leaving.cancel()


def attachment(name: str) -> str:
    """Return a Content-Disposition for any file name (RFC 6266 §4.3, RFC 8187)."""
    sound = name.encode("utf-8", "replace").decode()
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%;' else "_" for c in sound)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(sound, safe='')}"


class Streamed(StreamingResponse):
    """Streams a blocking generator. However the response ends, the generator is closed and `done` is called."""

    def __init__(
        self, pieces: Generator[bytes], status: int, headers: dict[str, str], kind: str, done: Callable[[], None] = lambda: None
    ) -> None:
        self._pieces = pieces
        self._done = done
        super().__init__(iterate_in_threadpool(pieces), status, headers, kind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()
            self._done()


def _pieces(file: BinaryIO, span: ByteRange, sha256: str | None) -> Generator[bytes]:
    """Yield the bytes of the range. With `sha256`, the last piece is sent only if the checksum of the whole matches."""
    digest = hashlib.sha256()
    file.seek(span.first)
    count = span.count
    while count:
        piece = file.read(min(PIECE, count))
        count -= len(piece)
        if sha256 is not None:
            digest.update(piece)
        if not piece or (count == 0 and sha256 is not None and digest.hexdigest() != sha256):
            raise Unavailable("file-changed")
        yield piece


def _none() -> Generator[bytes]:
    yield from ()


def _wanted(request: Request) -> RenderRequest:
    """Parse the parameters of an image. Raises `ValueError` with a message for the user."""
    wanted = _whole(request, "size", SIZES[0], 1 << 16)
    size = next((size for size in SIZES if size >= wanted), SIZES[-1])
    return RenderRequest("picture", _whole(request, "frame", 0, MAX_FRAME), size, _window(request.query_params.get("window")))


def _whole(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text, re.ASCII) or int(text) > most:
        raise ValueError(f"{name} must be a whole number from 0 to {most}")
    return int(text)


def _window(text: str | None) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        center, width = (float(f"{float(part):.6g}") for part in text.split(",", 1))
    except ValueError:
        center, width = math.nan, math.nan
    if not (math.isfinite(center) and math.isfinite(width) and abs(center) <= 1e9 and 0 < width <= 1e9):
        raise ValueError("window must be two numbers, centre and width, such as 40,400; the width must be greater than 0")
    return center, width


def _private() -> dict[str, str]:
    return {"Cache-Control": PRIVATE, "Vary": "Cookie, Authorization"}


def _not_there() -> Response:
    return _refusal(404, "No such file or study in the index.")


def _refusal(status: int, text: str, why: str | None = None) -> Response:
    return JSONResponse({"ok": False, "status": status, "error": text, "why": why}, status)


def _digits(text: str | None) -> str:
    return "".join(c for c in text or "" if c.isascii() and c.isdigit())[:8]


def _placeholder(text: str) -> str:
    """Return a grey SVG, legible on light and dark pages. `text` must be trusted: it is not escaped."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128" width="128" height="128" role="img"><title>{text}</title>'
        '<rect width="128" height="128" fill="#808080" fill-opacity=".12"/>'
        '<g fill="none" stroke="#808080" stroke-width="3" stroke-linejoin="round"><rect x="36" y="42" width="56" height="44" rx="4"/>'
        '<path d="M36 78l16-16 12 12 8-8 20 20M30 96L98 32"/></g></svg>'
    )
