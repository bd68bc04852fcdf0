"""Frames and bulk data of an instance (WADO-RS, PS3.18 §10.4.1.1.6, §10.4.1.1.5)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage_ledger.web.auth.access_log import asker_of
from storage_ledger.web.dicomweb.accept import EXPLICIT_LITTLE_ENDIAN
from storage_ledger.web.dicomweb.answers import Refused, accepted_by, not_acceptable, nothing_found
from storage_ledger.web.dicomweb.instances import Instance
from storage_ledger.web.dicomweb.multipart import Multipart, Part
from storage_ledger.web.dicomweb.retrieve import Sources, begun, frame_pieces, nothing, rendered_pieces
from storage_ledger.web.dicomweb.syntaxes import NATIVE, OCTET_STREAM, frame_form
from storage_ledger.web.files.pictures import RenderRequest

MAX_FRAMES = 10_000
"""In one request."""

PIXEL_DATA = "7FE00010"
_PATH = re.compile(r"[0-9A-F]{8}(?:/[1-9][0-9]{0,5}/[0-9A-F]{8}){0,16}")


async def frames(request: Request, instance: Instance | None, sources: Sources, base: str, numbers: Sequence[int]) -> Response:
    """Return these frames, from 1, in the order of the request. Raises `Refused`."""
    if instance is None:
        raise nothing_found()
    if instance.frames == 0:
        raise Refused(404, "This instance has no image.", "no-pixels")
    if max(numbers) > instance.frames:
        raise Refused(404, f"This instance has {instance.frames} frame(s).", "no-such-frame")
    form = frame_form(accepted_by(request), instance.syntax, len(numbers))
    if form is None:
        raise not_acceptable(f"frames are {OCTET_STREAM}, decoded, or as in the file (transfer-syntax=*)")
    asker = asker_of(request.scope)

    def pieces(number: int) -> AsyncIterator[bytes]:
        return frame_pieces(sources, instance, number - 1, stored=form.stored, asker=asker)

    if not form.multipart:
        return StreamingResponse(await begun(pieces(numbers[0])), media_type=form.part_type)

    async def parts() -> AsyncIterator[Part]:
        for number in numbers:
            yield Part(form.part_type, await begun(pieces(number)), {"Content-Location": f"{base}{instance.path}/frames/{number}"})

    whole = Multipart(form.media_type)
    body = whole.body(parts()) if request.method == "GET" else nothing()
    return StreamingResponse(await begun(body), media_type=whole.media_type)


def frame_numbers(text: str) -> list[int]:
    """Parse a list of frames. Raises `Refused`."""
    words = text.split(",")
    if len(words) > MAX_FRAMES or not all(re.fullmatch("[1-9][0-9]{0,8}", word, re.ASCII) for word in words):
        raise Refused(400, f"Frames are whole numbers from 1, separated by commas, at most {MAX_FRAMES}.")
    return [int(word) for word in words]


async def bulk_data(request: Request, instance: Instance | None, sources: Sources, base: str, path: str) -> Response:
    """Return one value: as octets, alone or as a part; the pixels of a compressed image as its frames. Raises `Refused`."""
    if instance is None:
        raise nothing_found()
    if not _PATH.fullmatch(path):
        raise nothing_found()
    if path == PIXEL_DATA and instance.syntax not in NATIVE and instance.syntax:
        return await frames(request, instance, sources, base, range(1, instance.frames + 1))
    accepted = next(
        (each for each in accepted_by(request) if each.allows(OCTET_STREAM) and each.syntax in {None, "*", EXPLICIT_LITTLE_ENDIAN}), None
    )
    if accepted is None:
        raise not_acceptable(f"bulk data is {OCTET_STREAM}")

    async def value() -> AsyncIterator[bytes]:
        made = await sources.renderings.get(instance.file, RenderRequest("bulk", path=path), asker_of(request.scope), keep=False)
        async for piece in rendered_pieces(sources, instance, made):
            yield piece

    pieces = await begun(value())
    if not accepted.multipart:
        return StreamingResponse(pieces, media_type=OCTET_STREAM)

    async def parts() -> AsyncIterator[Part]:
        yield Part(OCTET_STREAM, pieces, {"Content-Location": f"{base}{instance.path}/bulkdata/{path}"})

    whole = Multipart(OCTET_STREAM)
    return StreamingResponse(whole.body(parts()), media_type=whole.media_type)
