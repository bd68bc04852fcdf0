"""Checks of frames and of rendered images (WADO-RS). PS3.18 §8.3.5, §8.7.3.3, §8.7.4, §10.4.1.1.3, §10.4.1.1.4, §10.4.1.1.6."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial

import numpy as np
from PIL import Image
from pydicom.encaps import generate_frames

from tests.dicomweb.checks import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    NATIVE,
    OCTETS,
    RLE,
    File,
    Group,
    Server,
    part,
    parts,
)  # fmt: skip
from tests.dicomweb.retrieve_checks import FIRST, decodes
from tests.support.dicom_archive import CT

frames = Group("Retrieve: frames")
rendered = Group("Retrieve: rendered images and thumbnails")

MEDIA_TYPES = {
    RLE: "image/dicom-rle", JPEG_BASELINE: "image/jpeg", JPEG_LOSSLESS: "image/jpeg", JPEG_LS: "image/jls", JPEG_2000: "image/jp2",
}  # fmt: skip
"""Table 8.7.3-5."""


def encapsulated(file: File) -> list[bytes]:
    return list(generate_frames(file.data_set.PixelData, number_of_frames=file.frames))


def ends(file: File) -> Iterable[int]:
    return {1, file.frames}


def as_stored(server: Server, accept: str) -> None:
    for file in server.files:
        if file.frames and file.syntax and file.syntax not in NATIVE:
            for number in ends(file):
                found = part(server.get(f"{file.path}/frames/{number}", accept))
                assert (found.body, found.syntax) == (encapsulated(file)[number - 1], file.syntax), file


for accept in (
    'multipart/related; type="application/octet-stream"; transfer-syntax=*',
    'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
    "multipart/related; type=application/octet-stream; transfer-syntax=*",
    'multipart/related; type="*/*"; transfer-syntax=*',
):
    frames.add(f"compressed frames as stored, {accept}", "§8.7.3.5.2", partial(as_stored, accept=accept))


def in_media_type(server: Server, syntax: str, named: str) -> None:
    media_type = MEDIA_TYPES[syntax]
    for file in server.of_syntax(syntax):
        found = part(server.get(f"{file.path}/frames/1", f'multipart/related; type="{media_type}"; transfer-syntax={named}'))
        assert (found.media_type, found.body) == (media_type, encapsulated(file)[0]), file


for syntax, media_type in MEDIA_TYPES.items():
    for named in (syntax, "*"):
        name = f"frames of {syntax} as {media_type}; transfer-syntax={named}"
        frames.add(name, "Table 8.7.3-5", partial(in_media_type, syntax=syntax, named=named))


@frames.check("§8.7.3.5.1")
def a_transfer_syntax_inside_the_quotes(server: Server) -> None:
    file = server.of_syntax(JPEG_2000)[0]
    found = part(server.get(f"{file.path}/frames/1", f'multipart/related; type="image/jp2; transfer-syntax={JPEG_2000}"'))
    assert found.body == encapsulated(file)[0]


def native(server: Server, syntax: str) -> None:
    compared = 0
    for file in server.of_syntax(syntax):
        ds, size = file.data_set, file.frame_bytes
        if ds.BitsAllocated == 1 or len(ds.PixelData) < size * file.frames:
            continue
        for number in ends(file):
            found = part(server.get(f"{file.path}/frames/{number}", OCTETS))
            stored = ds.PixelData[size * (number - 1) : size * number]
            if syntax == BIG_ENDIAN and ds.BitsAllocated > 8:
                stored = np.frombuffer(stored, f">u{ds.BitsAllocated // 8}").astype(f"<u{ds.BitsAllocated // 8}").tobytes()
            assert found.body == stored, file
            compared += 1
    assert compared


for name, syntax in (("explicit", EXPLICIT), ("implicit", IMPLICIT), ("big endian", BIG_ENDIAN), ("deflated", DEFLATED)):
    frames.add(f"uncompressed frames, {name}", "§8.7.3.3.1", partial(native, syntax=syntax))


def decoded(server: Server, syntax: str) -> None:
    for file in server.of_syntax(syntax):
        if not decodes(file.data):
            continue
        pixels = file.data_set.pixel_array
        first = pixels[0] if file.frames > 1 else pixels
        found = part(server.get(f"{file.path}/frames/1", OCTETS))
        assert found.syntax in {EXPLICIT, ""}
        assert found.body.rstrip(b"\0") == np.ascontiguousarray(first).astype(first.dtype.newbyteorder("<")).tobytes().rstrip(b"\0"), file


for name, syntax in (("RLE", RLE), ("JPEG lossless", JPEG_LOSSLESS), ("JPEG-LS", JPEG_LS), ("JPEG 2000 lossless", JPEG_2000)):
    frames.add(f"{name} decoded, if nothing else is asked for", "§8.7.3.5.2", partial(decoded, syntax=syntax))


@frames.check("§10.4.1.1.6")
def several_frames_in_the_order_of_the_request(server: Server) -> None:
    film = max(server.of_syntax(*MEDIA_TYPES), key=lambda each: each.frames)
    for numbers in ((1, 2, film.frames), (film.frames, 1)):
        found = parts(server.get(f"{film.path}/frames/{','.join(map(str, numbers))}", f"{OCTETS}; transfer-syntax=*"))
        assert [each.body for each in found] == [encapsulated(film)[number - 1] for number in numbers]


@frames.check("§10.4.1.1.6")
def several_frames_with_an_escaped_comma(server: Server) -> None:
    film = max(server.of_syntax(*MEDIA_TYPES), key=lambda each: each.frames)
    assert len(parts(server.get(f"{film.path}/frames/1%2C2", f"{OCTETS}; transfer-syntax=*"))) == 2


@frames.check("§8.7.1")
def one_frame_alone(server: Server) -> None:
    answer = server.get(f"{FIRST}/frames/1", "application/octet-stream")
    assert (answer.status_code, len(answer.content)) == (200, 64 * 64 * 2)
    assert answer.headers["content-type"].startswith("application/octet-stream")


@frames.check("§10.4.3.1")
def a_frame_that_is_not_there_is_404(server: Server) -> None:
    for numbers in ("2", "1,2", "1000000"):
        answer = server.get(f"{FIRST}/frames/{numbers}", OCTETS)
        assert answer.status_code == 404, (numbers, answer.status_code)


@frames.check("§10.4.3.1")
def a_number_that_is_none_is_400(server: Server) -> None:
    for numbers in ("0", "-1", "x", "1,,1"):
        answer = server.get(f"{FIRST}/frames/{numbers}", OCTETS)
        assert answer.status_code in {400, 404}, (numbers, answer.status_code)


@frames.check("§8.7.8")
def a_media_type_that_the_pixels_are_not_is_406(server: Server) -> None:
    for accept in ('multipart/related; type="image/jls"', "text/html"):
        answer = server.get(f"{FIRST}/frames/1", accept)
        assert answer.status_code == 406, (accept, answer.status_code)


@frames.check("§10.4.3.1")
def frames_of_what_is_no_image_are_404(server: Server) -> None:
    report = next(each for each in server.files if "ContentSequence" in each.data_set and not each.frames)
    for of in ("frames/1", "rendered"):
        answer = server.get(f"{report.path}/{of}")
        assert answer.status_code in {404, 406}, (of, answer.status_code)


@frames.check("§10.4.3.1")
def no_image_makes_the_server_fail(server: Server) -> None:
    for file in server.files:
        for of in ("rendered", "thumbnail", "frames/1", "frames/1/rendered"):
            answer = server.get(f"{file.path}/{of}")
            assert answer.status_code < 500, (file, of, answer.status_code)


def image(server: Server, address: str, accept: str = "*/*") -> Image.Image:
    answer = server.get(address, accept)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:100]}"
    found = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"].partition(";")[0] == f"image/{(found.format or '').lower()}"
    return found


def has_format(server: Server, accept: str, parameter: str, expected: str) -> None:
    found = image(server, f"{FIRST}/rendered{parameter}", accept)
    assert (found.format, found.size) == (expected, (64, 64))


for accept, parameter, expected in (
    ("*/*", "", "JPEG"), ("image/*", "", "JPEG"), ("image/jpeg", "", "JPEG"), ("image/png", "", "PNG"), ("image/gif", "", "GIF"),
    ("image/png, image/jpeg;q=0.1", "", "PNG"), (OCTETS, "?accept=image/jpeg", "JPEG"), ("*/*", "?accept=image/png", "PNG"),
):  # fmt: skip
    rendered.add(f"{accept}{parameter}: {expected}", "§8.7.4", partial(has_format, accept=accept, parameter=parameter, expected=expected))


@rendered.check("§8.7.8")
def an_image_as_text_is_406(server: Server) -> None:
    assert server.get(f"{FIRST}/rendered", "text/html").status_code == 406


@rendered.check("§8.3.5.1.4")
def a_window(server: Server) -> None:
    wide, narrow = (np.asarray(image(server, f"{FIRST}/rendered?window={of},linear", "image/png")) for of in ("-900,4000", "-900,10"))
    assert wide.std() < narrow.std()


@rendered.check("§8.3.5.1.4")
def the_functions_of_a_window(server: Server) -> None:
    for function in ("linear", "linear-exact", "sigmoid"):
        image(server, f"{FIRST}/rendered?window=40,400,{function}")


@rendered.check("§8.3.5.1.3")
def a_viewport(server: Server) -> None:
    assert image(server, f"{FIRST}/rendered?viewport=32,32").size == (32, 32)


@rendered.check("§8.3.5.1.3")
def a_region_of_the_image(server: Server) -> None:
    whole = np.asarray(image(server, f"{FIRST}/rendered", "image/png"))
    found = np.asarray(image(server, f"{FIRST}/rendered?viewport=16,16,8,8,16,16", "image/png"))
    assert found.shape[:2] == (16, 16)
    assert np.abs(found.astype(int) - whole[8:24, 8:24].astype(int)).max() <= 2


@rendered.check("§8.3.5.1.2")
def a_quality(server: Server) -> None:
    good, bad = (len(server.get(f"{FIRST}/rendered?quality={quality}", "image/jpeg").content) for quality in (95, 5))
    assert good > bad


def invalid(server: Server, query: str) -> None:
    answer = server.get(f"{FIRST}/rendered?{query}")
    assert answer.status_code == 400, answer.status_code


for query in (
    "window=1", "window=a,b,linear", "window=40,0,linear", "window=40,400,cubic", "window=nan,1,linear", "viewport=0,0", "viewport=1",
    "viewport=a,b", "quality=0", "quality=101", "quality=x",
):  # fmt: skip
    rendered.add(f"400 for {query}", "§10.4.3.1", partial(invalid, query=query))


@rendered.check("§10.4.1.1.3")
def a_rendered_frame(server: Server) -> None:
    film = max(server.of_syntax(*MEDIA_TYPES), key=lambda each: each.frames)
    first, last = (np.asarray(image(server, f"{film.path}/frames/{number}/rendered", "image/png")) for number in (1, film.frames))
    assert not np.array_equal(first, last)


@rendered.check("§10.4.1.1.3")
def all_images_of_a_series_and_of_a_study_as_parts(server: Server) -> None:
    for address in (f"studies/{CT}", f"studies/{CT}/series/{CT}.1"):
        assert len(parts(server.get(f"{address}/rendered", 'multipart/related; type="image/jpeg"'))) == 12, address


def is_small(server: Server, address: str) -> None:
    found = image(server, f"{address}/thumbnail?accept=image/jpeg", OCTETS)
    assert (found.format, max(found.size) <= 512) == ("JPEG", True)


for name, address in (
    ("a study", f"studies/{CT}"),
    ("a series", f"studies/{CT}/series/{CT}.1"),
    ("an instance", FIRST),
    ("a frame", f"{FIRST}/frames/1"),
):
    rendered.add(f"the thumbnail of {name}", "§10.4.1.1.4", partial(is_small, address=address))
