"""Searches by DICOMweb (QIDO-RS) over real HTTP, on an archive of real files: PS3.18 §10.6 and what other servers' users complain of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.browsing import Browse
from tests.support.dicom_archive import COPIES, CT, JAPANESE, MR, TWINS, UMLAUT, Archived, make_dicom_archive

PATIENT_NAME, PATIENT_ID, STUDY, SERIES, SOP = "00100010", "00100020", "0020000D", "0020000E", "00080018"


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    return make_dicom_archive(tmp_path_factory.mktemp("dicomweb"))


@pytest.fixture(scope="module")
def client(archived: Archived, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log: Path = tmp_path_factory.mktemp("browse") / "browse.log"
    browse = Browse(archived.folder, log, "--no-login")
    with httpx.Client(base_url=f"{browse.url}/dicom-web", timeout=60, headers={"Accept": "application/dicom+json"}) as client:
        yield client
    browse.stop()
    assert "DOE" not in log.read_text()
    assert "error" not in log.read_text()


def studies(client: httpx.Client, query: str) -> list[str]:
    """Return the UIDs of the studies that a search finds."""
    return [value(each, STUDY) for each in found(client, f"studies?{query}")]


def found(client: httpx.Client, address: str) -> list[dict[str, Any]]:
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json"), answer.text
    objects: list[dict[str, Any]] = answer.json()
    for each in objects:
        assert each["00080005"]["Value"] == ["ISO_IR 192"]
        assert all(re.fullmatch("[0-9A-F]{8}", tag) and {"vr"} <= of.keys() <= {"vr", "Value"} for tag, of in each.items())
        assert all(of.get("Value") != [] for of in each.values())
    return objects


def value(of: dict[str, Any], tag: str) -> Any:
    return of[tag]["Value"][0]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID=P-1", {CT}),
        ("00100020=P-1", {CT}),
        ("PatientID=p-1", set()),
        ("PatientID=P-%3F", {CT, MR, JAPANESE, UMLAUT, TWINS, COPIES}),
        ("PatientID=*-2&StudyDate=20260302", {MR}),
        ("PatientName=doe^jane", {CT}),
        ("PatientName=DOE*&StudyDate=20260301-20260302", {CT, MR}),
        ("PatientName=Doe^John^^Dr^", {MR}),
        ("PatientName=*oe^ja*&StudyDate=20260301", {CT}),
        ("PatientName=Doe&StudyDate=20260301", set()),
        ("PatientName=%E5%B1%B1%E7%94%B0*", {JAPANESE}),
        ("PatientName=%E5%B1%B1%E7%94%B0%5E%E5%A4%AA%E9%83%8E", {JAPANESE}),
        ("PatientName=yamada^tarou", {JAPANESE}),
        ("PatientName=Yamada^Tarou%3D%E5%B1%B1%E7%94%B0^%E5%A4%AA%E9%83%8E*", {JAPANESE}),
        ("PatientName=m%C3%BCller*", {UMLAUT}),
        ("PatientName=mueller&fuzzymatching=true", {UMLAUT}),
        ("PatientName=jorg+muller&fuzzymatching=true", {UMLAUT}),
        ("PatientName=jorg+muller&fuzzymatching=false", set()),
        ("PatientName=*ane*&PatientID=*P-*&fuzzymatching=true", {CT}),
        ("StudyDate=20260301", {CT}),
        ("StudyDate=20260301-", {CT, MR}),
        ("StudyDate=2026-03-02-", {MR}),
        ("StudyDate=20260301-20260301&StudyTime=1015", {CT}),
        ("StudyDate=20260301-20260301&StudyTime=1016-", set()),
        ("StudyDate=20260301&StudyTime=-101500", {CT}),
        ("ModalitiesInStudy=SR&PatientID=P-2", {MR}),
        ("ModalitiesInStudy=CT,SR&PatientID=P-*&StudyDate=20260301-", {CT, MR}),
        ("ModalitiesInStudy=CT%5CSR&PatientID=P-*&StudyDate=20260301-", {CT, MR}),
        ("ModalitiesInStudy=M*&PatientID=P-2", {MR}),
        ("AccessionNumber=ACC[1]", {CT}),
        ("AccessionNumber=ACC[*", {CT}),
        ("ReferringPhysicianName=house*", {CT}),
        ("StudyID=CT-7", {CT}),
        ("StudyDescription=CT+chest", {CT}),
        (f"StudyInstanceUID={CT}", {CT}),
        (f"StudyInstanceUID={CT},{MR}", {CT, MR}),
        (f"StudyInstanceUID={CT}%5C{MR}", {CT, MR}),
        (f"SeriesInstanceUID={MR}.2", {MR}),
        (f"SOPInstanceUID={MR}.2.1", {MR}),
        (f"SeriesDescription=&StudyInstanceUID={CT}", {CT}),
        ("PatientName=&PatientID=P-1", {CT}),
        ("PatientID=nobody", set()),
        ("PatientName=%27%29+OR+1%3D1+--", set()),
    ],
)
def test_a_search_finds(client: httpx.Client, query: str, expected: set[str]) -> None:
    assert set(studies(client, query)) == expected


def test_nothing_found_is_an_empty_list(client: httpx.Client) -> None:
    answer = client.get("studies?PatientID=nobody")
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_study_has_the_required_attributes(client: httpx.Client) -> None:
    (study,) = found(client, "studies?PatientID=P-1")
    values = {tag: of.get("Value") for tag, of in study.items()}
    assert values == {
        "00080005": ["ISO_IR 192"], "00080020": ["20260301"], "00080030": ["101500"], "00080050": ["ACC[1]"], "00080056": ["ONLINE"],
        "00080061": ["CT"], "00080090": [{"Alphabetic": "House^Gregory"}], "00081030": ["CT chest"],
        "00081190": [f"{client.base_url}studies/{CT}"],
        PATIENT_NAME: [{"Alphabetic": "DOE^JANE"}], PATIENT_ID: ["P-1"], "00100030": ["19700101"], "00100040": ["F"],
        STUDY: [CT], "00200010": ["CT-7"], "00201206": [1], "00201208": [12],
    }  # fmt: skip


def test_the_groups_of_a_name(client: httpx.Client) -> None:
    (study,) = found(client, "studies?PatientID=P-3")
    assert value(study, PATIENT_NAME) == {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


def test_series_and_instances_have_the_required_attributes(client: httpx.Client) -> None:
    series = found(client, f"studies/{MR}/series")
    assert [value(each, "0020000E") for each in series] == [f"{MR}.{number}" for number in (1, 2, 3)]
    assert {"00080060", "00081190", "0020000E", "00200011", "00201209"} <= series[0].keys()
    assert PATIENT_NAME not in series[0]
    instances = found(client, f"studies/{CT}/series/{CT}.1/instances")
    assert [value(each, "00200013") for each in instances] == list(range(1, 13))
    assert {"00080016", "00080018", "00080056", "00081190", "00200013", "00280010", "00280011", "00280100"} <= instances[0].keys()
    assert value(instances[0], "00081190") == f"{client.base_url}studies/{CT}/series/{CT}.1/instances/{CT}.1.1"


def test_relational_searches_have_the_attributes_of_the_levels_above(client: httpx.Client) -> None:
    (series,) = found(client, "series?Modality=SR&PatientID=P-2")
    assert (value(series, "0020000E"), value(series, PATIENT_ID)) == (f"{MR}.3", "P-2")
    (instance,) = found(client, f"instances?SOPInstanceUID={MR}.2.1")
    assert (value(instance, "0020000E"), value(instance, STUDY), value(instance, "00080060")) == (f"{MR}.2", MR, "MR")
    of_study = found(client, f"studies/{MR}/instances?Modality=MR")
    assert [value(each, "0020000E") for each in of_study] == [f"{MR}.1", f"{MR}.2"]


def test_one_instance_of_several_files_with_its_uid(client: httpx.Client) -> None:
    for uid in (TWINS, COPIES):
        assert len(found(client, f"studies/{uid}/instances")) == 1
        assert value(found(client, f"studies?StudyInstanceUID={uid}")[0], "00201208") == 1


@pytest.mark.parametrize(
    "fields",
    [
        "includefield=InstitutionName,00080070",
        "includefield=InstitutionName%2C00080070",
        "includefield=00080080&includefield=Manufacturer",
        "includefield=InstitutionName%5CManufacturer",
        "includefield=all",
    ],
)
def test_fields_are_included_in_every_spelling(client: httpx.Client, fields: str) -> None:
    (study,) = found(client, f"studies?PatientID=P-1&{fields}")
    assert (value(study, "00080080"), value(study, "00080070")) == ("General Hospital", "ACME")


def test_unknown_names_are_ignored_with_a_warning(client: httpx.Client) -> None:
    answer = client.get("studies?PatientID=P-1&foo=DOE&SliceThickness=3&includefield=nonsense")
    assert (answer.status_code, len(answer.json())) == (200, 1)
    assert answer.headers["warning"].startswith("299 ")
    assert "SliceThickness" in answer.headers["warning"]
    assert "DOE" not in answer.headers["warning"]


@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=x", "offset=1.5", "limit=1&limit=2", "fuzzymatching=perhaps", "StudyDate=yesterday", "StudyDate=2026-13-0",
     "StudyTime=noon", "StudyInstanceUID=1.2.x", "PatientID=a&00100020=b", "SeriesNumber=one", "PatientName=%00", "StudyDate=-"],
)  # fmt: skip
def test_an_invalid_query_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"studies?{query}")
    assert answer.status_code == 400, answer.text


def test_what_is_accepted(client: httpx.Client) -> None:
    def get(accept: str, query: str = "") -> tuple[int, str]:
        answer = client.get(f"studies?limit=1{query}", headers={"Accept": accept})
        return answer.status_code, answer.headers["content-type"].partition(";")[0]

    assert get("application/dicom+json, application/json") == (200, "application/dicom+json")
    assert get("application/json") == (200, "application/json")
    assert get("*/*") == (200, "application/dicom+json")
    assert get("text/html", "&accept=application/dicom%2Bjson") == (200, "application/dicom+json")
    assert get('multipart/related; type="application/dicom+xml"')[0] == 406
    assert get("nonsense")[0] == 400


def test_pages_together_are_everything(client: httpx.Client) -> None:
    everything = [value(each, SOP) for each in found(client, "instances")]
    assert len(everything) == len(set(everything)) > 100
    pages: list[str] = []
    for offset in itertools.count(0, 20):
        page = found(client, f"instances?limit=20&offset={offset}")
        pages += [value(each, SOP) for each in page]
        if not page:
            break
    assert pages == everything
    assert found(client, "studies?limit=0") == []
    assert found(client, "studies?offset=100000") == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "127.0.0.1"}, "http://127.0.0.1:{port}/dicom-web"),
        ({"Host": "localhost:4711"}, "http://localhost:4711/dicom-web"),
        ({"X-Forwarded-Proto": "https", "Host": "localhost"}, "https://localhost/dicom-web"),
        ({"X-Forwarded-Host": "localhost:8443", "X-Forwarded-Proto": "https"}, "https://localhost:8443/dicom-web"),
        ({"X-Forwarded-Host": "localhost", "X-Forwarded-Port": "8080"}, "http://localhost:8080/dicom-web"),
        ({"X-Forwarded-Host": "localhost", "X-Forwarded-Prefix": "/archive/"}, "http://localhost/archive/dicom-web"),
        ({"X-Forwarded-Host": "evil.example.org"}, "http://127.0.0.1:{port}/dicom-web"),
        ({"X-Forwarded-Prefix": '"><script>', "Host": "localhost:1"}, "http://localhost:1/dicom-web"),
    ],
)
def test_addresses_are_those_of_the_client(client: httpx.Client, headers: dict[str, str], expected: str) -> None:
    answer = client.get("studies?PatientID=P-1", headers=headers)
    assert value(answer.json()[0], "00081190") == f"{expected.format(port=client.base_url.port)}/studies/{CT}"


def test_unknown_addresses_and_methods(client: httpx.Client) -> None:
    for address in ("", "x", f"studies/{CT}/x", f"studies/{CT}/series/{CT}.1/x"):
        assert client.get(address).status_code == 404
    assert client.get("studies/not-a-uid/series").status_code == 400
    assert client.get(f"studies/{CT}.99/series").json() == []
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, "studies").status_code == 405
