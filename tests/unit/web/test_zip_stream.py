"""ZIP files of a study: their contents, the list of missing or damaged files, and names that are valid everywhere."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import zipfile
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import Unavailable
from storage_ledger.web.files.routes import ContentRoutes, attachment
from storage_ledger.web.files.zip_stream import MAX_NAME_BYTES, PROBLEMS, paths, safe_name, zipped


def kept(name: str, data: bytes = b"x", series: int | None = 1) -> IndexedFile:
    return IndexedFile("s1", name, hashlib.sha256(data).hexdigest(), len(data), "unverified", "CT", "20260101", series, 1, "1.2.3")


def test_a_zip_is_made_piece_by_piece_and_larger_than_what_is_held(tmp_path: Path):
    data = os.urandom(1 << 20) * 5
    (tmp_path / "big").write_bytes(data)
    pieces = list(zipped([("big", kept("big", data))], lambda _: os.open(tmp_path / "big", os.O_RDONLY), [("note.txt", b"n")]))
    assert max(map(len, pieces)) < 2 << 20
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert archive.read("big") == data
        assert archive.namelist() == ["note.txt", "big", "SHA256SUMS.txt"]


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_there(tmp_path: Path):
    (tmp_path / "good").write_bytes(b"x")
    (tmp_path / "damaged").write_bytes(b"y")

    def opened(one: IndexedFile) -> int:
        if one.name == "gone":
            raise Unavailable("file-missing")
        return os.open(tmp_path / one.name, os.O_RDONLY)

    whole = b"".join(zipped(paths([kept("gone"), kept("damaged"), kept("good")], series=False), opened))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        lines = archive.read(PROBLEMS).decode().splitlines()
    assert [line.partition(".")[0] for line in lines] == ["gone: not in this ZIP", "damaged: in this ZIP, but damaged"]


def test_names_differ_where_case_and_composition_do_not_count():
    names = ["a.dcm", "A.dcm", "a.DCM", "é.dcm", "e\u0301.dcm", "sha256sums.TXT", "a~2.dcm"]
    found = [path for path, _ in paths([kept(name) for name in names], series=False)]
    assert len({path.casefold() for path in found}) == len(names)
    assert found[0] == "a.dcm"
    assert [path for path, _ in paths([kept("x", series=None), kept("x", series=2)], series=True)] == ["series-x-CT/x", "series-2-CT/x"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("../../etc/passwd", "_.._etc_passwd"), ("..", "file"), ("", "file"), ("a/b\\c:d", "a_b_c_d"), ("CON", "_CON"),
        ("nul.dcm", "_nul.dcm"),
        ("-rf", "_-rf"), ("a\r\nb", "a__b"), ("trailing. . ", "trailing"), ("\u202egpj.exe", "_gpj.exe"), ("plain.dcm", "plain.dcm"),
        ("日本.dcm", "日本.dcm"), ("\ud800", "_"),
    ],
)  # fmt: skip
def test_a_safe_name_has_no_special_meaning_on_any_system(name: str, wanted: str):
    assert safe_name(name) == wanted


def test_a_long_name_is_cut_and_keeps_its_suffix():
    assert len(safe_name("é" * 200 + ".dcm").encode()) <= MAX_NAME_BYTES
    assert safe_name("é" * 200 + ".dcm").endswith(".dcm")
    assert len(safe_name("." + "x" * 300).encode()) <= MAX_NAME_BYTES


@pytest.mark.parametrize("name", ['a"b.dcm', "a\r\nSet-Cookie: x=y", "a;b", "100%41", "\\x", "ü.dcm", "\ud800", "\x00"])
def test_a_disposition_is_one_header_with_one_quoted_name(name: str):
    text = attachment(name)
    text.encode("latin-1")
    assert text.isprintable()
    assert text.count('"') == 2
    assert text.startswith("attachment; filename=")


@pytest.mark.parametrize("uid", ["1.2.3", "1.2/3", "a/b/../c", "/", "%2F"])
def test_a_study_has_a_zip_whatever_its_uid_is(uid: str):
    asked = []

    class Lookup:
        async def of_dicom_study(self, uid: str) -> list[IndexedFile]:
            asked.append(uid)
            return []

        def open(self, _: IndexedFile) -> int:
            raise AssertionError

    async def get() -> int:
        app = ContentRoutes(Lookup(), None, None, None).before(lambda *_: None)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return (await client.get(f"/zip/{quote(uid, safe='')}")).status_code

    assert asyncio.run(get()) == 404
    assert asked == [uid]
