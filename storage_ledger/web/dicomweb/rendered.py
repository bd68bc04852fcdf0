"""Images for people: rendered instances and frames, and thumbnails (WADO-RS, PS3.18 §10.4.1.1.3, §10.4.1.1.4, §8.3.5)."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage_ledger.web.auth.access_log import asker_of
from storage_ledger.web.dicomweb.accept import Acceptable
from storage_ledger.web.dicomweb.answers import Refused, accepted_by, not_acceptable, nothing_found, refusal
from storage_ledger.web.dicomweb.instances import Instance
from storage_ledger.web.dicomweb.multipart import Multipart, Part
from storage_ledger.web.dicomweb.retrieve import Sources, begun, nothing
from storage_ledger.web.files.http_ranges import is_current
from storage_ledger.web.files.pictures import SIZES, Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.renderings import cache_key

THUMBNAIL = 128
MAX_SIDE = 8192

_MEDIA: dict[str, Literal["jpeg", "png", "gif"]] = {"image/jpeg": "jpeg", "image/png": "png", "image/gif": "gif"}
_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{0,12})?(?:[eE][+-]?[0-9]{1,2})?")


async def rendered(request: Request, found: Sequence[Instance], sources: Sources, base: str, numbers: Sequence[int] = (1,)) -> Response:
    """Return images: one alone, of the first instance that has one; or, as parts, those of all instances. Raises `Refused`."""
    images = _with_images(found)
    accepted = accepted_by(request)
    media_type, accepted_as = _chosen(accepted)
    frames = [(instance, number) for instance in images for number in numbers]
    if max(numbers) > max(each.frames for each in images):
        raise Refused(404, f"This instance has {images[0].frames} frame(s).", "no-such-frame")
    wanted = {pair: _wanted(request, media_type, pair[1]) for pair in frames}
    if not accepted_as.multipart:
        return await _one(request, frames[0][0], wanted[frames[0]], sources)
    asker = asker_of(request.scope)

    async def image(of: tuple[Instance, int]) -> AsyncIterator[bytes]:
        made = await sources.renderings.get(of[0].file, wanted[of], asker)
        with sources.room.taken(len(made.data)):
            yield made.data

    async def parts() -> AsyncIterator[Part]:
        for each in frames:
            path = f"{each[0].path}/frames/{each[1]}/rendered"
            yield Part(media_type, await begun(image(each)), {"Content-Location": base + path})

    whole = Multipart(media_type)
    body = whole.body(parts()) if request.method == "GET" else nothing()
    return StreamingResponse(await begun(body), media_type=whole.media_type)


async def thumbnail(request: Request, found: Sequence[Instance], sources: Sources, number: int = 1) -> Response:
    """Return a small image of the first instance that has one. Raises `Refused`."""
    images = _with_images(found)
    media_type, _ = _chosen(accepted_by(request))
    viewport = _viewport(request.query_params.get("viewport")) or (THUMBNAIL, THUMBNAIL)
    wanted = RenderRequest("picture", number - 1, media=_MEDIA[media_type], viewport=viewport)
    if number > images[0].frames:
        raise Refused(404, f"This instance has {images[0].frames} frame(s).", "no-such-frame")
    return await _one(request, images[0], wanted, sources)


async def _one(request: Request, instance: Instance, wanted: RenderRequest, sources: Sources) -> Response:
    key = cache_key(instance.file, wanted)
    headers = {"ETag": f'"{key}"', "Vary": "Accept, Cookie, Authorization"}
    if is_current(request.headers, key):
        return Response(status_code=304, headers=headers)
    made = await _image(sources, instance, wanted, request)
    return Response(made.data, media_type=f"image/{made.kind}", headers=headers)


async def _image(sources: Sources, instance: Instance, wanted: RenderRequest, request: Request) -> Rendered:
    try:
        return await sources.renderings.get(instance.file, wanted, asker_of(request.scope))
    except Unavailable as error:
        raise refusal(error) from None


def _with_images(found: Sequence[Instance]) -> Sequence[Instance]:
    if not found:
        raise nothing_found()
    images = [each for each in found if each.frames]
    if not images:
        raise Refused(404, "There is no image here.", "no-pixels")
    return images


def _chosen(accepted: Sequence[Acceptable]) -> tuple[str, Acceptable]:
    for each in accepted:
        for media_type in _MEDIA:
            if each.allows(media_type):
                return media_type, each
    raise not_acceptable(f"rendered images are {', '.join(_MEDIA)}")


def _wanted(request: Request, media_type: str, number: int) -> RenderRequest:
    parameters = request.query_params
    window, function = _window(parameters.get("window"))
    viewport = _viewport(parameters.get("viewport"))
    return RenderRequest(
        "picture", number - 1, SIZES[-1], window, function=function, media=_MEDIA[media_type], quality=_quality(parameters.get("quality")),
        viewport=viewport,
    )  # fmt: skip


def _window(text: str | None) -> tuple[tuple[float, float] | None, Literal["linear", "linear-exact", "sigmoid"] | None]:
    """Parse `centre,width,function` (§8.3.5.1.4). Raises `Refused`."""
    if text is None:
        return None, None
    words = text.split(",")
    numbers = [float(word) for word in words[:2] if _NUMBER.fullmatch(word)]
    function = words[2].lower() if len(words) == 3 else "linear"
    if len(words) not in {2, 3} or len(numbers) != 2 or function not in _FUNCTIONS or not _is_width(numbers[1], function):
        raise Refused(400, "window is centre,width,function: two numbers, and linear, linear-exact or sigmoid")
    return (numbers[0], numbers[1]), function  # type: ignore[return-value] # one of the three


def _is_width(width: float, function: str) -> bool:
    return math.isfinite(width) and (width >= 1 if function == "linear" else width > 0)


def _quality(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= 100:
        raise Refused(400, "quality is a whole number from 1 to 100")
    return int(text)


def _viewport(text: str | None) -> tuple[float | None, ...] | None:
    """Parse `width,height` or `width,height,x,y,width,height`; the last four may be empty (§8.3.5.1.3). Raises `Refused`."""
    if text is None:
        return None
    words = text.split(",")
    values = [float(word) if _NUMBER.fullmatch(word) else None for word in words]
    wrong = any(word and value is None for word, value in zip(words, values, strict=True))
    sizes = values[:2]
    if len(words) not in {2, 6} or wrong or not all(value is not None and 1 <= value <= MAX_SIDE for value in sizes):
        raise Refused(
            400, f"viewport is width,height, each from 1 to {MAX_SIDE}, or width,height,x,y,width,height with those of the source"
        )
    return tuple(values)
