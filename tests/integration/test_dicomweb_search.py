"""What our searches by DICOMweb (QIDO-RS) do beyond the checks of tests/dicomweb: warnings, the newest first, statuses, addresses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dicomweb.checks import parts
from tests.support.browsing import Browse
from tests.support.dicom_archive import COPIES, CT, MR, TWINS, Archived, make_dicom_archive
from tests.support.native_model import ATTRIBUTE, ITEM, VALUE, parsed

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


def found(client: httpx.Client, address: str) -> list[dict[str, Any]]:
    answer = client.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json"), answer.text
    objects: list[dict[str, Any]] = answer.json()
    for each in objects:
        assert each["00080005"]["Value"] == ["ISO_IR 192"]
    return objects


def value(of: dict[str, Any], tag: str) -> Any:
    return of[tag]["Value"][0]


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
    ["limit=1&limit=2", "StudyDate=2026-13-0", "StudyDate=-", "StudyTime=noon", "SeriesNumber=one",
     "PatientName=%00", "PatientID=a&00100020=b"],
)  # fmt: skip
def test_an_invalid_query_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"studies?{query}")
    assert answer.status_code == 400, answer.text


def test_what_is_accepted(client: httpx.Client) -> None:
    def get(accept: str) -> tuple[int, str]:
        answer = client.get("studies?limit=1", headers={"Accept": accept})
        return answer.status_code, answer.headers["content-type"].partition(";")[0]

    assert get("application/json") == (200, "application/json")
    assert get("application/dicom+xml")[0] == 406  # only as parts
    assert get("nonsense")[0] == 400


def test_results_as_xml_are_those_of_json(client: httpx.Client) -> None:
    xml = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    results = [parsed(each.body) for each in parts(client.get("instances?limit=5", headers=xml))]
    uid = f"{ATTRIBUTE}[@keyword='SOPInstanceUID']/{VALUE}"
    assert [each.findtext(uid) for each in results] == [value(each, SOP) for each in found(client, "instances?limit=5")]
    nothing = client.get("studies?PatientID=nobody", headers=xml)
    assert (nothing.status_code, nothing.content) == (204, b"")


REQUESTS, STEP, PROCEDURE = (
    "00400275",
    "RequestAttributesSequence.ScheduledProcedureStepID",
    "RequestAttributesSequence.RequestedProcedureID",
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"{STEP}=SPS-*", {f"{CT}.1", f"{MR}.1"}),
        (f"{STEP}=SPS-%3F&{PROCEDURE}=RP-3", {f"{MR}.1"}),
        (f"{STEP}=&PatientID=P-2", {f"{MR}.1", f"{MR}.2", f"{MR}.3"}),
        (f'{STEP}=""&PatientID=P-2', {f"{MR}.2", f"{MR}.3"}),
        (f"{STEP}=S'PS&{PROCEDURE}=RP-3", set()),
    ],
)
def test_series_are_found_by_what_was_requested(client: httpx.Client, query: str, expected: set[str]) -> None:
    assert {value(each, SERIES) for each in found(client, f"series?{query}")} == expected


def test_studies_and_instances_are_found_by_what_was_requested(client: httpx.Client) -> None:
    assert [value(each, STUDY) for each in found(client, f"studies?{PROCEDURE}=RP-2")] == [MR]
    (instance,) = found(client, f"instances?{PROCEDURE}=RP-2&{STEP}=SPS-2")
    assert (value(instance, SERIES), len(instance[REQUESTS]["Value"])) == (f"{MR}.1", 2)
    assert found(client, f"instances?{PROCEDURE}=RP-2&{STEP}=SPS-3") == []
    in_a_series = f"studies/{MR}/series/{MR}.1/instances"
    assert REQUESTS not in found(client, in_a_series)[0]
    for field in (REQUESTS, f"{REQUESTS}.00401001", "all"):
        assert found(client, f"{in_a_series}?includefield={field}")[0][REQUESTS] == instance[REQUESTS]


def test_requests_are_items_in_xml_too(client: httpx.Client) -> None:
    answer = client.get(f"studies/{MR}/series?limit=1", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    (series,) = [parsed(each.body) for each in parts(answer)]
    items = f"{ATTRIBUTE}[@keyword='RequestAttributesSequence']/{ITEM}/{ATTRIBUTE}[@keyword='RequestedProcedureID']/{VALUE}"
    assert [each.text for each in series.iterfind(items)] == ["RP-2", "RP-3"]


def test_another_attribute_in_a_sequence_is_ignored_with_a_warning(client: httpx.Client) -> None:
    answer = client.get(f"series?PatientID=P-1&{REQUESTS}.AccessionNumber=DOE&{REQUESTS}.nonsense=1")
    assert len(answer.json()) == 1
    assert "RequestAttributesSequence.AccessionNumber" in answer.headers["warning"]
    assert "DOE" not in answer.headers["warning"]


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
        ({"X-Forwarded-Host": "evil.example.org"}, "http://127.0.0.1:{port}/dicom-web"),
        ({"X-Forwarded-Prefix": '"><script>', "Host": "localhost:1"}, "http://localhost:1/dicom-web"),
    ],
)
def test_addresses_are_never_those_of_anybody_else(client: httpx.Client, headers: dict[str, str], expected: str) -> None:
    answer = client.get("studies?PatientID=P-1", headers=headers)
    assert value(answer.json()[0], "00081190") == f"{expected.format(port=client.base_url.port)}/studies/{CT}"


def test_unknown_addresses_and_methods(client: httpx.Client) -> None:
    for address in ("", "x", f"studies/{CT}/x", f"studies/{CT}/series/{CT}.1/x"):
        assert client.get(address).status_code == 404
    assert client.get("studies/not-a-uid/series").status_code == 400
    assert client.get(f"studies/{CT}.99/series").json() == []
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, "studies").status_code == 405
