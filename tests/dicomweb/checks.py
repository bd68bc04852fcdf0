"""What a check of a DICOMweb server is, and how it reads the server's answers. The checks themselves are in the modules beside this one."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pydicom

EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
NATIVE = {EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED}
RLE, JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = (
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
)  # fmt: skip
JSON = "application/dicom+json"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'

PATIENT_NAME, PATIENT_ID, STUDY, SERIES, SOP, RETRIEVE_URL = "00100010", "00100020", "0020000D", "0020000E", "00080018", "00081190"


@dataclass(frozen=True)
class File:
    """A file that the server has."""

    study: str
    series: str
    uid: str
    data: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The address of its instance below the service."""
        return f"studies/{self.study}/series/{self.series}/instances/{self.uid}"

    @cached_property
    def data_set(self) -> Any:
        """What pydicom reads from it."""
        return read(self.data)

    @property
    def syntax(self) -> str:
        """Its transfer syntax, or an empty text."""
        return str(self.data_set.file_meta.get("TransferSyntaxUID", ""))

    @property
    def frames(self) -> int:
        """How many frames it has; 0 if it is no image."""
        ds = self.data_set
        if "PixelData" not in ds or "Rows" not in ds:
            return 0
        text = str(ds.get("NumberOfFrames") or 1)
        return int(text) if text.isdigit() else 1

    @property
    def frame_bytes(self) -> int:
        """How long an uncompressed frame is."""
        ds = self.data_set
        bits = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated
        return int(bits // 8 * 2 // 3 if ds.PhotometricInterpretation == "YBR_FULL_422" else bits // 8)


def read(data: bytes) -> Any:
    """Return the data set of a file, however odd it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True)


@dataclass(frozen=True)
class Server:
    """A server under test. `client`: its base URL is that of the service; `files`: what it has; `ready`: starts it if it has ended."""

    client: httpx.Client
    files: tuple[File, ...]
    ready: Callable[[], None] = lambda: None

    def get(self, address: str, accept: str = "*/*", **headers: str) -> httpx.Response:
        """Return the answer, whatever it is. Underscores in the names of headers stand for hyphens."""
        return self.client.get(address, headers={"Accept": accept, **{name.replace("_", "-"): text for name, text in headers.items()}})

    def found(self, address: str) -> list[dict[str, Any]]:
        """Return what a search finds, or metadata."""
        answer = self.get(address, JSON)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
        assert answer.headers["content-type"].partition(";")[0] == JSON, answer.headers["content-type"]
        objects: list[dict[str, Any]] = answer.json()
        return objects

    def studies(self, query: str) -> set[str]:
        """Return the UIDs of the studies that a search finds."""
        return {value(each, STUDY) for each in self.found(f"studies?{query}")}

    def of_syntax(self, *syntaxes: str) -> list[File]:
        """Return the images in one of these transfer syntaxes. There is at least one."""
        files = [each for each in self.files if each.frames and each.syntax in syntaxes]
        assert files, "the server has no such file"
        return files

    @property
    def url(self) -> str:
        """The URL of the service, without a slash at the end."""
        return str(self.client.base_url).rstrip("/")


@dataclass(frozen=True)
class Part:
    """A part of an answer, its headers in lower case."""

    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        """Its media type, without parameters."""
        return self.headers["content-type"].partition(";")[0].strip()

    @property
    def syntax(self) -> str:
        """The transfer syntax of its Content-Type."""
        return self.headers["content-type"].partition("transfer-syntax=")[2].strip('" ')


def parts(answer: httpx.Response) -> list[Part]:
    """Return the parts of an answer, which must be complete and framed as RFC 2046 §5.1.1 and PS3.18 §8.6.1.2.1 say."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
    head = re.match(r'multipart/related; ?.*type="?([^";]+)"?', answer.headers["content-type"])
    marked = re.search(r'boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))', answer.headers["content-type"])
    assert head is not None, answer.headers["content-type"]
    assert marked is not None, answer.headers["content-type"]
    boundary = b"--" + (marked[1] or marked[2]).encode()
    first, *pieces, last = (b"\r\n" + answer.content).split(b"\r\n" + boundary)
    assert first == b"", first[:60]
    assert last in {b"--", b"--\r\n"}, last[:60]
    found = []
    for piece in pieces:
        assert piece.startswith(b"\r\n"), piece[:60]
        headers, end, body = piece[2:].partition(b"\r\n\r\n")
        assert end, "a part without headers"
        lines = (line.split(":", 1) for line in headers.decode().split("\r\n"))
        found.append(Part({name.lower(): text.strip() for name, text in lines}, body))
        assert found[-1].media_type == head[1].strip(), found[-1].headers
    return found


def part(answer: httpx.Response) -> Part:
    """Return the only part of an answer."""
    found = parts(answer)
    assert len(found) == 1, f"{len(found)} parts"
    return found[0]


def value(of: dict[str, Any], tag: str) -> Any:
    """Return the first value of an attribute."""
    return of[tag]["Value"][0]


def values(of: dict[str, Any], *tags: str) -> list[Any]:
    """Return the first value of each attribute; None where there is none."""
    return [(of.get(tag, {}).get("Value") or [None])[0] for tag in tags]


def bulk_data(data_set: dict[str, Any]) -> Iterator[str]:
    """Yield the addresses of a data set's bulk data, those in sequences too."""
    for element in data_set.values():
        if "BulkDataURI" in element:
            yield element["BulkDataURI"]
        for item in element.get("Value", []):
            if element["vr"] == "SQ" and item:
                yield from bulk_data(item)


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, and where the standard says so. `run` raises if the server does not do it."""

    name: str
    source: str
    run: Callable[[Server], None] = field(repr=False)


@dataclass(slots=True)
class Group:
    """Checks of one subject, in the order of their definition."""

    name: str
    checks: list[Check] = field(default_factory=list)

    def check(self, source: str) -> Callable[[Callable[[Server], None]], Callable[[Server], None]]:
        """Add a function, whose name is that of the check. `source`: of PS3.18, unless it names another part."""

        def add(run: Callable[[Server], None]) -> Callable[[Server], None]:
            self.add(run.__name__.replace("_", " "), source, run)
            return run

        return add

    def add(self, name: str, source: str, run: Callable[[Server], None]) -> None:
        """Add a check."""
        self.checks.append(Check(name, source, run))
