"""Files, data sets, frames, bulk data and images by DICOMweb (WADO-RS) over real HTTP: PS3.18 §8.7, §10.4, Annex F."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames

from tests.support import annex_f
from tests.support.browsing import Browse
from tests.support.dicom_archive import CT, MR, Archived, make_dicom_archive

EXPLICIT = "1.2.840.10008.1.2.1"
NATIVE = {EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    return make_dicom_archive(tmp_path_factory.mktemp("dicomweb"))


@pytest.fixture(scope="module")
def client(archived: Archived, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log: Path = tmp_path_factory.mktemp("browse") / "browse.log"
    browse = Browse(archived.folder, log, "--no-login", BROWSE_WORKERS="2")
    with httpx.Client(base_url=f"{browse.url}/dicom-web", timeout=60) as client:
        yield client
    browse.stop()
    assert "DOE" not in log.read_text()
    assert "Traceback" not in log.read_text()


@dataclass(frozen=True)
class Part:
    headers: dict[str, str]
    body: bytes

    @property
    def syntax(self) -> str:
        return self.headers["content-type"].partition("transfer-syntax=")[2]


def parts(answer: httpx.Response) -> list[Part]:
    """Return the parts of an answer, which must be complete (RFC 2046 §5.1.1)."""
    assert answer.status_code == 200, answer.text
    kind = re.fullmatch(r'multipart/related; type="([^"]+)"; boundary=([0-9a-f]+)', answer.headers["content-type"])
    assert kind is not None, answer.headers["content-type"]
    boundary = b"--" + kind[2].encode()
    first, *pieces, last = answer.content.split(boundary)
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for piece in pieces:
        assert piece.startswith(b"\r\n")
        assert piece.endswith(b"\r\n")
        head, _, body = piece[2:-2].partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        found.append(Part({name.lower(): value for name, value in headers.items()}, body))
        assert found[-1].headers["content-type"].startswith(kind[1])
    return found


def path_of(uids: tuple[str, str, str]) -> str:
    return "studies/{}/series/{}/instances/{}".format(*uids)


def named(archived: Archived, suffix: bytes) -> tuple[str, str, str]:
    """Return the UIDs of the source that contains these bytes."""
    return next(uids for uids, data in archived.sources.items() if suffix in data)


def of_syntax(archived: Archived, *syntaxes: str) -> Iterator[tuple[tuple[str, str, str], pydicom.Dataset]]:
    for uids, data in archived.sources.items():
        ds = read(data)
        if ds.file_meta.get("TransferSyntaxUID") in syntaxes and "PixelData" in ds:
            yield uids, ds


def read(data: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(data), force=True)


@pytest.mark.filterwarnings("ignore")
def test_every_instance_comes_back_byte_for_byte(client: httpx.Client, archived: Archived) -> None:
    assert len(archived.sources) > 100
    for uids, data in archived.sources.items():
        (part,) = parts(client.get(path_of(uids), headers={"Accept": AS_STORED}))
        assert part.body == data, uids
        alone = client.get(path_of(uids), headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert (alone.status_code, alone.content) == (200, data)
        assert alone.headers["content-type"].startswith("application/dicom")
        assert alone.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'


@pytest.mark.filterwarnings("ignore")
def test_every_instance_comes_in_explicit_little_endian_or_is_refused(client: httpx.Client, archived: Archived) -> None:
    statuses = []
    for uids, data in archived.sources.items():
        answer = client.get(path_of(uids), headers={"Accept": "application/dicom"})
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
            made, source = read(answer.content), read(data)
            assert made.file_meta.TransferSyntaxUID == EXPLICIT
            assert made.SOPInstanceUID == source.SOPInstanceUID
        else:
            assert answer.status_code in {406, 409}, (uids, answer.status_code, answer.text)
    assert statuses.count(200) > 0.9 * len(statuses)


@pytest.mark.filterwarnings("ignore")
def test_decoded_pixels_are_those_of_the_file(client: httpx.Client, archived: Archived) -> None:
    lossless = ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2")
    compared = 0
    for uids, source in of_syntax(archived, *lossless):
        answer = client.get(path_of(uids), headers={"Accept": "application/dicom"})
        if answer.status_code == 200:
            assert np.array_equal(read(answer.content).pixel_array, source.pixel_array), uids
            compared += 1
    assert compared >= 5


def test_a_series_and_a_study_as_parts(client: httpx.Client, archived: Archived) -> None:
    for address, count in ((f"studies/{CT}", 12), (f"studies/{CT}/series/{CT}.1", 12), (f"studies/{MR}", 3)):
        found = parts(client.get(address, headers={"Accept": AS_STORED}))
        assert len(found) == count
        assert all(each.headers["content-location"].startswith(f"{client.base_url}studies/") for each in found)
        uids = [read(each.body).SOPInstanceUID for each in found]
        assert uids == sorted(uids, key=order_of)
    assert client.get(f"studies/{CT}", headers={"Accept": "application/dicom"}).status_code == 406


def test_a_file_that_the_client_has_is_not_sent_again(client: httpx.Client, archived: Archived) -> None:
    uids = (CT, f"{CT}.1", f"{CT}.1.1")
    headers = {"Accept": "application/dicom; transfer-syntax=*"}
    tag = client.get(path_of(uids), headers=headers).headers["etag"]
    assert client.get(path_of(uids), headers={**headers, "If-None-Match": tag}).status_code == 304
    head = client.head(path_of(uids), headers=headers)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.filterwarnings("ignore")
def test_the_data_set_of_every_instance(client: httpx.Client, archived: Archived) -> None:
    for uids in archived.sources:
        answer = client.get(path_of(uids) + "/metadata", headers={"Accept": "application/dicom+json"})
        assert answer.status_code == 200, (uids, answer.text)
        assert annex_f.faults(answer.content[1:-1]) == [], uids
        (data_set,) = json.loads(answer.content, parse_constant=pytest.fail)
        assert data_set["00080018"]["Value"] == [uids[2]]
        for url in bulk_data_urls(data_set):
            assert url.startswith(f"{client.base_url}{path_of(uids)}/bulkdata/")


def order_of(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


def bulk_data_urls(data_set: dict[str, Any]) -> Iterator[str]:
    for element in data_set.values():
        if "BulkDataURI" in element:
            yield element["BulkDataURI"]
        for item in element.get("Value", []):
            if element["vr"] == "SQ" and item:
                yield from bulk_data_urls(item)


def test_metadata_of_series_and_study_are_those_of_their_instances(client: httpx.Client) -> None:
    for address, count in ((f"studies/{CT}/series/{CT}.1", 12), (f"studies/{MR}", 3)):
        answer = client.get(f"{address}/metadata")
        assert answer.headers["content-type"] == "application/dicom+json"
        assert len(answer.json()) == count
    assert client.get(f"studies/{CT}/metadata", headers={"Accept": 'multipart/related; type="application/dicom+xml"'}).status_code == 406


@pytest.mark.filterwarnings("ignore")
def test_frames_as_stored(client: httpx.Client, archived: Archived) -> None:
    seen = set()
    for uids, data in archived.sources.items():
        ds = read(data)
        syntax = str(ds.file_meta.get("TransferSyntaxUID", ""))
        if "PixelData" not in ds or syntax in NATIVE or not syntax or "Rows" not in ds:
            continue
        count = int(ds.get("NumberOfFrames") or 1)
        expected = list(generate_frames(ds.PixelData, number_of_frames=count))
        for number in {1, count}:
            for accept in (f"{OCTETS}; transfer-syntax=*", 'multipart/related; type=application/octet-stream; transfer-syntax="*"'):
                (part,) = parts(client.get(f"{path_of(uids)}/frames/{number}", headers={"Accept": accept}))
                assert (part.body, part.syntax) == (expected[number - 1], syntax), uids
        seen.add(syntax)
    assert len(seen) >= 7


@pytest.mark.filterwarnings("ignore")
def test_native_frames(client: httpx.Client, archived: Archived) -> None:
    compared = 0
    for uids, data in archived.sources.items():
        ds = read(data)
        if (
            "PixelData" not in ds
            or str(ds.file_meta.get("TransferSyntaxUID", "")) not in {EXPLICIT, "1.2.840.10008.1.2"}
            or ds.BitsAllocated == 1
        ):
            continue
        if not str(ds.get("NumberOfFrames") or 1).isdigit():
            continue
        size = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8
        if ds.PhotometricInterpretation == "YBR_FULL_422":
            size = size * 2 // 3
        for number in {1, int(ds.get("NumberOfFrames") or 1)}:
            answer = client.get(f"{path_of(uids)}/frames/{number}", headers={"Accept": OCTETS})
            if len(ds.PixelData) < size * number:
                assert answer.status_code == 409, uids
                continue
            (part,) = parts(answer)
            assert part.syntax == EXPLICIT
            assert part.body == ds.PixelData[size * (number - 1) : size * number], uids
            compared += 1
    assert compared > 10


def test_frames_that_cannot_be(client: httpx.Client, archived: Archived) -> None:
    base = f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/frames"
    assert [client.get(f"{base}/{text}").status_code for text in ("2", "1,2", "0", "-1", "x", "1,", "1,,1", "99999999999")] == [
        404, 404, 400, 400, 400, 400, 400, 400,
    ]  # fmt: skip
    assert client.get(f"{base}/1", headers={"Accept": 'multipart/related; type="image/jpeg"'}).status_code == 406
    assert client.get(f"{base}/1", headers={"Accept": "text/html"}).status_code == 406
    assert client.get(f"{path_of((CT, f'{CT}.1', f'{CT}.1.99'))}/frames/1").status_code == 404


def test_one_frame_alone(client: httpx.Client) -> None:
    answer = client.get(f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/frames/1", headers={"Accept": "application/octet-stream"})
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert len(answer.content) == 64 * 64 * 2


@pytest.mark.filterwarnings("ignore")
def test_bulk_data_of_every_instance(client: httpx.Client, archived: Archived) -> None:
    single = several = 0
    truncated: list[tuple[str, str, str]] = []
    for uids, data in archived.sources.items():
        (data_set,) = client.get(path_of(uids) + "/metadata").json()
        syntax = str(read(data).file_meta.get("TransferSyntaxUID", ""))
        for url in bulk_data_urls(data_set):
            if url.endswith("/7FE00010") and syntax not in NATIVE | {""}:
                continue  # a compressed image: its frames
            alone = client.get(url, headers={"Accept": "application/octet-stream"})
            if alone.status_code == 409:
                truncated.append(uids)
                continue
            assert (alone.status_code, alone.headers["content-type"]) == (200, "application/octet-stream"), (uids, url, alone.text)
            (part,) = parts(client.get(url, headers={"Accept": OCTETS}))
            assert part.body == alone.content
            single += 1
            several += url.count("/bulkdata/") + url.partition("/bulkdata/")[2].count("/") > 1
    assert single > 20
    assert len(truncated) == 1  # MR_truncated.dcm: its pixels are fewer than their length says
    assert several  # values in sequences, too


def test_bulk_data_that_is_not_there(client: httpx.Client) -> None:
    base = f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/bulkdata"
    for path in ("00091010", "54000100/1/54001010", "x", "7FE00010/1", "7FE00010/../../x"):
        assert client.get(f"{base}/{path}").status_code in {400, 404}, path


def test_rendered_images(client: httpx.Client) -> None:
    base = path_of((CT, f"{CT}.1", f"{CT}.1.1"))

    def image(address: str, accept: str = "*/*") -> Image.Image:
        answer = client.get(address, headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        picture = Image.open(io.BytesIO(answer.content))
        assert answer.headers["content-type"] == f"image/{(picture.format or '').lower()}"
        return picture

    assert (image(f"{base}/rendered").format, image(f"{base}/rendered").size) == ("JPEG", (64, 64))
    assert image(f"{base}/rendered", "image/png").format == "PNG"
    assert image(f"{base}/rendered", "image/gif, image/jpeg;q=0.1").format == "GIF"
    assert image(f"{base}/frames/1/rendered?viewport=32,32").size == (32, 32)
    assert image(f"{base}/rendered?accept=image/jpeg", OCTETS).format == "JPEG"
    wide, narrow = (np.asarray(image(f"{base}/rendered?window={window}", "image/png")) for window in ("-900,4000,linear", "-900,10,linear"))
    assert wide.std() < narrow.std()
    good, bad = (len(client.get(f"{base}/rendered?quality={quality}").content) for quality in (95, 5))
    assert good > bad
    for level in (f"studies/{CT}", f"studies/{CT}/series/{CT}.1", base):
        small = image(f"{level}/thumbnail?accept=image/jpeg", OCTETS)
        assert (small.format, max(small.size)) == ("JPEG", 128)
    assert len(parts(client.get(f"studies/{CT}/rendered", headers={"Accept": 'multipart/related; type="image/jpeg"'}))) == 12


@pytest.mark.parametrize(
    "query",
    ["window=1", "window=a,b,linear", "window=40,0,linear", "window=40,400,cubic", "viewport=0,0", "viewport=1", "viewport=a,b",
     "viewport=99999999,1", "quality=0", "quality=101", "quality=x", "window=nan,1,linear"],
)  # fmt: skip
def test_invalid_parameters_of_rendering(client: httpx.Client, query: str) -> None:
    assert client.get(f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/rendered?{query}").status_code == 400


@pytest.mark.filterwarnings("ignore")
def test_no_address_fails(client: httpx.Client, archived: Archived) -> None:
    """Every resource of every file answers with itself or with a reason."""
    for uids in archived.sources:
        for of in ("rendered", "thumbnail", "frames/1", "frames/1/rendered", "bulkdata/7FE00010"):
            answer = client.get(f"{path_of(uids)}/{of}")
            assert answer.status_code in {200, 404, 406, 409, 413}, (uids, of, answer.status_code, answer.text)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    archived = make_dicom_archive(tmp_path / "archive-of-its-own")
    damaged, missing = (archived.folder / "archive" / f"ct-{number}" for number in (2, 3))
    for folder, change in ((damaged, True), (missing, False)):
        (file,) = (each for each in folder.iterdir() if each.name != "metadata.json")
        if change:
            data = bytearray(file.read_bytes())
            data[-100] ^= 1
            file.write_bytes(data)
        else:
            os.unlink(file)
    browse = Browse(archived.folder, tmp_path / "browse.log", "--no-login")
    try:
        with httpx.Client(base_url=f"{browse.url}/dicom-web", timeout=60) as client:
            for number, status in ((1, 200), (2, 409), (3, 404)):
                for of in ("", "/metadata", "/rendered", "/frames/1", "/bulkdata/7FE00010"):
                    answer = client.get(f"{path_of((CT, f'{CT}.1', f'{CT}.1.{number}'))}{of}")
                    assert answer.status_code == status, (number, of, answer.text)
                    assert status == 200 or answer.headers["x-why"] == {409: "file-changed", 404: "file-missing"}[status]
            metadata = client.get(f"studies/{CT}/metadata")
            assert (metadata.status_code, len(metadata.json())) == (206, 10)
            assert "2 of 12" in metadata.headers["warning"]
            with pytest.raises(httpx.RemoteProtocolError):  # the damage is found in the middle: the answer has no end
                client.get(f"studies/{CT}", headers={"Accept": AS_STORED})
    finally:
        browse.stop()
