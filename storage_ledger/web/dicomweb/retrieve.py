"""Instances as PS3.10 files (WADO-RS, PS3.18 §10.4): as archived, or re-encoded in Explicit VR Little Endian."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage_ledger.web.auth.access_log import asker_of
from storage_ledger.web.dicomweb.accept import Acceptable, syntax_for
from storage_ledger.web.dicomweb.answers import Refused, accepted_by, not_acceptable, nothing_found, refusal, warning
from storage_ledger.web.dicomweb.instances import Instance
from storage_ledger.web.dicomweb.multipart import Multipart, Part
from storage_ledger.web.dicomweb.room import Room
from storage_ledger.web.dicomweb.syntaxes import DECODABLE
from storage_ledger.web.files.checked import CheckedFiles, opened
from storage_ledger.web.files.http_ranges import is_current
from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.renderings import Renderings

DICOM = "application/dicom"
PIECE = 256 << 10
READ = 1 << 20
"""Of a file at a time: most images in one."""

ROOM_BYTES = 256 << 20
"""Of all answers together: the web page may have a limit of 1 GB."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the bytes come from: `files` opens checked files, `renderings` makes what needs parsing.

    `room`: for what was made and is not sent yet.
    """

    files: CheckedFiles
    renderings: Renderings
    room: Room = field(default_factory=lambda: Room(ROOM_BYTES))


async def instances(request: Request, found: Sequence[Instance], sources: Sources, base: str) -> Response:
    """Return the instances: 206 and a warning if only some of them can be sent. Raises `Refused`."""
    if not found:
        raise nothing_found()
    accepted = [each for each in accepted_by(request) if each.allows(DICOM) and (each.multipart is not False or len(found) == 1)]
    forms = [(instance, *form) for instance in found if (form := _form(accepted, instance)) is not None]
    if not forms:
        raise not_acceptable("instances are application/dicom, as archived (transfer-syntax=*) or in Explicit VR Little Endian")
    asker = asker_of(request.scope)
    if len(found) == 1:
        instance, syntax, multipart = forms[0]
        headers = _headers(instance) if syntax == instance.syntax else {}
        if headers and is_current(request.headers, instance.file.sha256):
            return Response(status_code=304, headers=headers)
        if request.method != "GET":
            await _check(sources, instance)  # a body is checked as it begins: damage is a status, not a broken answer
        pieces = _pieces(sources, instance, syntax, asker)
        if not multipart:
            length = {"Content-Length": str(instance.file.bytes)} if syntax == instance.syntax else {}
            first = pieces if request.method == "GET" else nothing()
            return StreamingResponse(await begun(first), headers={**headers, **length}, media_type=_media_type(syntax))
        there, texts = forms, []
    else:
        missing = [each for each in forms if await _is_missing(sources, each[0])]
        there = [each for each in forms if each not in missing]
        if not there:
            raise Refused(409, "None of these files can be sent: they are missing, damaged or cannot be read.", "file-missing")
        gone = len(found) - len(there)
        texts = [f"{gone} of {len(found)} instances are missing, damaged or not available in an accepted form"] if gone else []
        headers = {}

    async def parts() -> AsyncIterator[Part]:
        for instance, syntax, _ in there:
            location = {"Content-Location": base + instance.path}
            yield Part(_media_type(syntax), await begun(_pieces(sources, instance, syntax, asker)), location)

    whole = Multipart(DICOM)
    body = whole.body(parts()) if request.method == "GET" else nothing()
    return StreamingResponse(await begun(body), 206 if texts else 200, {**headers, **warning(texts)}, whole.media_type)


def _form(accepted: Sequence[Acceptable], instance: Instance) -> tuple[str, bool] | None:
    """Return the transfer syntax to send, and whether as a part; None if no alternative is satisfied."""
    for each in accepted:
        syntax = syntax_for(each, instance.syntax, decodable=instance.syntax in DECODABLE or (instance.frames == 0 and not each.syntax))
        if syntax is not None:
            return syntax, each.multipart is not False
    return None


def _media_type(syntax: str) -> str:
    return f"{DICOM}; transfer-syntax={syntax}" if syntax else DICOM


def _headers(instance: Instance) -> Mapping[str, str]:
    digest = base64.b64encode(bytes.fromhex(instance.file.sha256)).decode()
    return {"ETag": f'"{instance.file.sha256}"', "Digest": f"sha-256={digest}", "Vary": "Accept, Cookie, Authorization"}


async def _check(sources: Sources, instance: Instance) -> None:
    try:
        os.close(await opened(sources.files.open, instance.file))
    except Unavailable as error:
        raise refusal(error) from None


async def _is_missing(sources: Sources, instance: Instance) -> bool:
    try:
        await asyncio.to_thread(sources.files.look, instance.file)
    except Unavailable:
        return True
    return False


async def _pieces(sources: Sources, instance: Instance, syntax: str, asker: str) -> AsyncIterator[bytes]:
    """Yield the instance's bytes in this transfer syntax. Raises `Unavailable`, before the first piece if the file is damaged."""
    if syntax == instance.syntax:
        async for piece in stretch(sources, instance, 0, instance.file.bytes):
            yield piece
        return
    made = await sources.renderings.get(instance.file, RenderRequest("explicit"), asker, keep=False)
    head, frames = whole_number(made.about, "head"), whole_number(made.about, "frames")
    with sources.room.taken(len(made.data)):
        yield made.data[:head]
        match made.about.get("range"):
            case [int(first), int(count)]:
                async for piece in stretch(sources, instance, first, count):
                    yield piece
            case _:
                for frame in range(frames):
                    async for piece in frame_pieces(sources, instance, frame, stored=False, asker=asker):
                        yield piece
        if whole_number(made.about, "pad"):
            yield b"\0"
        yield made.data[head:]


async def frame_pieces(sources: Sources, instance: Instance, frame: int, *, stored: bool, asker: str) -> AsyncIterator[bytes]:
    """Yield one frame, from 0, as it is in the file or decoded. Raises `Unavailable`."""
    made = await sources.renderings.get(instance.file, RenderRequest("frame", frame, stored=stored), asker, keep=False)
    async for piece in rendered_pieces(sources, instance, made):
        yield piece


async def rendered_pieces(sources: Sources, instance: Instance, made: Rendered) -> AsyncIterator[bytes]:
    """Yield what a worker made, or the part of the file to which it points."""
    if "at" not in made.about:
        with sources.room.taken(len(made.data)):
            yield made.data
        return
    async for piece in stretch(sources, instance, whole_number(made.about, "at"), whole_number(made.about, "length")):
        yield piece


async def stretch(sources: Sources, instance: Instance, first: int, count: int) -> AsyncIterator[bytes]:
    """Yield `count` bytes of the file from byte `first`, in pieces. Raises `Unavailable`, also if the file has fewer."""
    if min(first, count) < 0 or first + count > instance.file.bytes:
        raise Unavailable("picture-crashed", "beyond the end of the file")
    read: list[bytes] = []

    def open_and_read(file: IndexedFile) -> int:
        descriptor = sources.files.open(file)
        try:
            read.append(os.pread(descriptor, min(READ, count), first))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    descriptor = await opened(open_and_read, instance.file)  # with the first piece: each change of threads costs as much as reading it
    try:
        while count:
            piece = read.pop() if read else await asyncio.to_thread(os.pread, descriptor, min(READ, count), first)
            if not piece:
                raise Unavailable("file-changed")
            first += len(piece)
            count -= len(piece)
            yield piece
    finally:
        os.close(descriptor)


def whole_number(about: Mapping[str, Any], name: str) -> int:
    """Return a number from a worker's answer, which may be hostile. Raises `Unavailable`."""
    value = about.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Unavailable("picture-crashed", f"{name} is not a number")
    return value


async def begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Make the first piece now, so that an earlier failure can be answered with a status. Returns all pieces. Raises `Refused`."""
    try:
        first = await anext(pieces, None)
    except Unavailable as error:
        raise refusal(error) from None

    async def all_of_them() -> AsyncIterator[bytes]:
        try:
            if first is not None:
                yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()  # type: ignore[attr-defined] # a generator

    return all_of_them()


async def nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the body of an answer to HEAD."""
    none: tuple[bytes, ...] = ()
    for piece in none:
        yield piece
