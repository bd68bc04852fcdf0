"""The data sets of instances as DICOM JSON or XML, without bulk data (WADO-RS metadata, PS3.18 §10.4.1.1.2, Annex F, PS3.19 §A.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage_ledger.errors import PICTURES_BUSY
from storage_ledger.web.auth.access_log import asker_of
from storage_ledger.web.dicomweb.accept import XML, data_set_type
from storage_ledger.web.dicomweb.answers import accepted_by, not_acceptable, nothing_found, refusal, warning
from storage_ledger.web.dicomweb.instances import Instance
from storage_ledger.web.dicomweb.multipart import Multipart
from storage_ledger.web.dicomweb.retrieve import PIECE, Sources, begun
from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable

AT_A_TIME = 3
"""Batches in the making for one request: others have their turn."""

BATCH = 16
BATCH_BYTES = 8 << 20
"""Of the files of a batch, if there are several: their data sets are in memory together."""

MOST_CACHED_BYTES = 32 << 20
"""Of data sets that are read from the cache at once. Those beyond it are read while the answer is sent."""

_AS_JSON, _AS_XML = RenderRequest("dicom-json"), RenderRequest("dicom-xml")
_REFERENCES = {_AS_JSON: b'"BulkDataURI":"', _AS_XML: b'<BulkData uri="'}


async def metadata(request: Request, found: Sequence[Instance], sources: Sources, base: str) -> Response:
    """Return the data sets: 206 and a warning if some files are missing, damaged or cannot be read. Raises `Refused`."""
    if not found:
        raise nothing_found()
    media_type = data_set_type(accepted_by(request))
    if media_type is None:
        raise not_acceptable("metadata is application/dicom+json or application/dicom+xml in parts")
    wanted, (first, between, last) = _AS_JSON, (b"[", b",", b"]")
    if media_type == XML:
        whole = Multipart(XML)
        wanted, media_type, (first, between, last) = _AS_XML, whole.media_type, whole.around()
    held, failed = await _made(request, found, wanted, sources)
    busy = next((each for each in failed.values() if each.code == PICTURES_BUSY), None)
    if busy is not None or len(failed) == len(found):
        sources.room.give(_bytes(held))
        raise refusal(busy or failed[0])

    async def data_set(number: int) -> bytes:
        if number in held:
            return held.pop(number)
        data = (await sources.renderings.get(found[number].file, wanted, asker_of(request.scope))).data
        if not sources.room.take(len(data)):
            raise Unavailable(PICTURES_BUSY)
        return data

    async def pieces() -> AsyncIterator[bytes]:
        piece, separator, taken = bytearray(first), b"", 0
        try:
            for number, instance in enumerate(found):
                if number in failed:
                    continue
                data = await data_set(number)
                taken += len(data)
                piece += separator + with_references(data, wanted, f"{base}{instance.path}/bulkdata/")
                del data
                separator = between
                if len(piece) > PIECE:
                    full = bytes(piece)
                    piece.clear()
                    yield full
                    del full
                    sources.room.give(taken)
                    taken = 0
            yield bytes(piece) + last
        finally:
            sources.room.give(taken + _bytes(held))

    texts = [f"{len(failed)} of {len(found)} instances are missing, damaged or cannot be read"] if failed else []
    return StreamingResponse(await begun(pieces()), 206 if failed else 200, warning(texts), media_type)


async def _made(
    request: Request, found: Sequence[Instance], wanted: RenderRequest, sources: Sources
) -> tuple[dict[int, bytes], dict[int, Unavailable]]:
    """Make all data sets. Returns those held in memory, and why others cannot be made, by the number of the instance.

    The rest is read from the cache, or rendered again, while the answer is sent. Data sets that only wait for others of their answer get
    a quarter of the room: most of it is kept for what is being sent.
    """
    room = sources.room
    leave = room.size * 3 // 4
    share = max(0, min(MOST_CACHED_BYTES, room.left - leave))
    room.take(share)
    held, there = await asyncio.to_thread(_cached, found, wanted, sources, share)
    room.give(share - _bytes(held))
    failed: dict[int, Unavailable] = {}
    batches = _batches(found, [number for number in range(len(found)) if number not in there])

    async def make() -> None:
        for numbers in batches:  # each of several takes the next one
            while numbers:
                if await request.is_disconnected():
                    return
                made = await sources.renderings.make_some([found[number].file for number in numbers], wanted, asker_of(request.scope))
                while made:  # what is not held is not there any more when the next ones are made
                    hold(numbers.pop(0), made.pop(0))
                if any(error.code == PICTURES_BUSY for error in failed.values()):
                    return

    def hold(number: int, made: Rendered | Unavailable) -> None:
        if isinstance(made, Unavailable):
            failed[number] = made
        elif room.take(len(made.data), leave=leave):
            held[number] = made.data

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_A_TIME, len(found))):
            group.create_task(make())
    return held, failed


def _batches(found: Sequence[Instance], numbers: Iterable[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for number in numbers:
        size += found[number].file.bytes
        if batch and (len(batch) == BATCH or size > BATCH_BYTES):
            yield batch
            batch, size = [], found[number].file.bytes
        batch.append(number)
    if batch:
        yield batch


def _cached(found: Sequence[Instance], wanted: RenderRequest, sources: Sources, most_bytes: int) -> tuple[dict[int, bytes], set[int]]:
    """Return data sets that the cache has, by the number of the instance, as many as may be held; and the numbers of all it has."""
    held: dict[int, bytes] = {}
    there: set[int] = set()
    for number, instance in enumerate(found):
        made = sources.renderings.cached(instance.file, wanted)
        if made is not None:
            there.add(number)
            if len(made.data) <= most_bytes:
                held[number] = made.data
                most_bytes -= len(made.data)
    return held, there


def _bytes(held: Mapping[int, bytes]) -> int:
    return sum(map(len, held.values()))


def with_references(data: bytes, wanted: RenderRequest, url: str) -> bytes:
    """Return the document with whole URLs of its bulk data. In a text its mark would be escaped, so that nothing else is changed."""
    mark = _REFERENCES[wanted]
    return data.replace(mark, mark + (escape(url) if wanted == _AS_XML else url).encode())
