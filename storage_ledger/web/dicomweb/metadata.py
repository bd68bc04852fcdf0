"""The data sets of instances as DICOM JSON, without bulk data (WADO-RS metadata, PS3.18 §10.4.1.1.2, Annex F)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage_ledger.web.auth.access_log import asker_of
from storage_ledger.web.dicomweb.accept import json_type
from storage_ledger.web.dicomweb.answers import accepted_by, not_acceptable, nothing_found, refusal, warning
from storage_ledger.web.dicomweb.instances import Instance
from storage_ledger.web.dicomweb.retrieve import PIECE, Sources
from storage_ledger.web.files.pictures import RenderRequest, Unavailable

AT_A_TIME = 8
"""Data sets in the making for one request: others have their turn."""

MOST_HELD_BYTES = 64 << 20
"""Of data sets that are made and not sent yet. Those beyond it are made, or read from the cache, while the answer is sent."""

WANTED = RenderRequest("dicom-json")
_REFERENCE = b'"BulkDataURI":"'


async def metadata(request: Request, found: Sequence[Instance], sources: Sources, base: str) -> Response:
    """Return the data sets: 206 and a warning if some files are missing, damaged or cannot be read. Raises `Refused`."""
    if not found:
        raise nothing_found()
    media_type = json_type(accepted_by(request))
    if media_type is None:
        raise not_acceptable("metadata is application/dicom+json")
    asker = asker_of(request.scope)
    held, failed = await _made(found, sources, asker)
    if len(failed) == len(found):
        raise refusal(failed[0])

    async def pieces() -> AsyncIterator[bytes]:
        piece = bytearray(b"[")
        separator = b""
        for number, instance in enumerate(found):
            if number in failed:
                continue
            data = held.pop(number, None) or (await sources.renderings.get(instance.file, WANTED, asker)).data
            piece += separator + with_references(data, f"{base}{instance.path}/bulkdata/")
            separator = b","
            if len(piece) > PIECE:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece) + b"]"

    texts = [f"{len(failed)} of {len(found)} instances are missing, damaged or cannot be read"] if failed else []
    return StreamingResponse(pieces(), 206 if failed else 200, warning(texts), media_type)


async def _made(found: Sequence[Instance], sources: Sources, asker: str) -> tuple[dict[int, bytes], dict[int, Unavailable]]:
    """Make all data sets. Returns those that are held, and why others cannot be made, by the number of the instance."""
    held = await asyncio.to_thread(_cached, found, sources)
    failed: dict[int, Unavailable] = {}
    numbers = iter([number for number in range(len(found)) if number not in held])
    room = MOST_HELD_BYTES - sum(map(len, held.values()))

    async def make() -> None:
        nonlocal room
        for number in numbers:  # each of several takes the next one
            try:
                data = (await sources.renderings.make(found[number].file, WANTED, asker)).data
            except Unavailable as error:
                failed[number] = error
            else:
                if len(data) <= room:
                    held[number] = data
                    room -= len(data)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_A_TIME, len(found))):
            group.create_task(make())
    return held, failed


def _cached(found: Sequence[Instance], sources: Sources) -> dict[int, bytes]:
    """Return the data sets that the cache has, by the number of the instance, as many as may be held."""
    held: dict[int, bytes] = {}
    room = MOST_HELD_BYTES
    for number, instance in enumerate(found):
        made = sources.renderings.cached(instance.file, WANTED)
        if made is not None and len(made.data) <= room:
            held[number] = made.data
            room -= len(made.data)
    return held


def with_references(data: bytes, url: str) -> bytes:
    """Return the JSON with whole URLs of its bulk data. In a text the quotes would be escaped, so that nothing else is changed."""
    return data.replace(_REFERENCE, _REFERENCE + url.encode())
