"""What our DICOMweb does beyond the checks of tests/dicomweb when files are retrieved (WADO-RS): ETags, order, damage, statuses."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.dicomweb.checks import AS_STORED, EXPLICIT, parts, read
from tests.support.browsing import Browse
from tests.support.dicom_archive import CT, MR, Archived, make_dicom_archive
from tests.support.native_model import ATTRIBUTE, BULK_DATA, parsed


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


def path_of(uids: tuple[str, str, str]) -> str:
    return "studies/{}/series/{}/instances/{}".format(*uids)


@pytest.mark.filterwarnings("ignore")
def test_every_instance_comes_back_byte_for_byte(client: httpx.Client, archived: Archived) -> None:
    assert len(archived.sources) > 100
    for uids, data in archived.sources.items():
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


def order_of(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


@pytest.mark.filterwarnings("ignore")
def test_metadata_as_xml_is_that_of_json(client: httpx.Client, archived: Archived) -> None:
    xml = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    bulk = 0
    for uids in archived.sources:
        (of_json,) = client.get(f"{path_of(uids)}/metadata").json()
        (part,) = parts(client.get(f"{path_of(uids)}/metadata", headers=xml))
        found = parsed(part.body).findall(ATTRIBUTE)
        assert [each.get("vr") for each in found] == [each["vr"] for each in of_json.values()], uids
        urls = [each.get("uri") for each in found for each in each.findall(BULK_DATA)]
        assert urls == [each["BulkDataURI"] for each in of_json.values() if "BulkDataURI" in each]
        bulk += len(urls)
    assert bulk > 100
    of_series = parts(client.get(f"studies/{CT}/series/{CT}.1/metadata", headers=xml))
    assert len(of_series) == 12
    assert len({each.body for each in of_series}) == 12


def test_frames_that_cannot_be(client: httpx.Client, archived: Archived) -> None:
    base = f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/frames"
    assert [client.get(f"{base}/{text}").status_code for text in ("2", "1,2", "0", "-1", "x", "1,", "1,,1", "99999999999")] == [
        404, 404, 400, 400, 400, 400, 400, 400,
    ]  # fmt: skip
    assert client.get(f"{base}/1", headers={"Accept": 'multipart/related; type="image/jpeg"'}).status_code == 406
    assert client.get(f"{base}/1", headers={"Accept": "text/html"}).status_code == 406
    assert client.get(f"{path_of((CT, f'{CT}.1', f'{CT}.1.99'))}/frames/1").status_code == 404


def test_bulk_data_that_is_not_there(client: httpx.Client) -> None:
    base = f"{path_of((CT, f'{CT}.1', f'{CT}.1.1'))}/bulkdata"
    for path in ("00091010", "54000100/1/54001010", "x", "7FE00010/1", "7FE00010/../../x"):
        assert client.get(f"{base}/{path}").status_code in {400, 404}, path


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
