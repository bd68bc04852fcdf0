"""Checks with the requests that clients send, letter for letter, and behind proxies (DICOM PS3.18; what users of other servers report)."""

from __future__ import annotations

from functools import partial

from tests.dicomweb.checks import JPEG_BASELINE, JSON, OCTETS, RETRIEVE_URL, SOP, Group, Server, bulk_data, part, parts, value, values
from tests.dicomweb.pixel_checks import FIRST, MEDIA_TYPES, image
from tests.support.dicom_archive import CT, MR

ohif = Group("Requests of OHIF 3.13")
dicomweb_client = Group("Requests of dicomweb-client 0.61")
weasis = Group("Requests of Weasis 4.7")
addresses = Group("Addresses in answers")

BOTH = "application/dicom+json, application/json"
FIELDS = "includefield=00081030%2C00080060%2C00080090%2C00100030"


@ohif.check("§10.6.1")
def the_list_of_studies(server: Server) -> None:
    found = server.found(f"studies?limit=101&offset=0&fuzzymatching=true&{FIELDS}")
    assert len(found) == min(101, len({each.study for each in server.files}))


@ohif.check("§10.6.1")
def the_list_of_studies_filtered(server: Server) -> None:
    query = "PatientName=*ANE*&00100020=*P-*&AccessionNumber=*ACC*&StudyDescription=*CT*&ModalitiesInStudy=CT&limit=101&offset=0"
    found = server.found(f"studies?{query}&fuzzymatching=true&{FIELDS}&StudyDate=20260101-20261231")
    assert [value(each, "0020000D") for each in found] == [CT]


@ohif.check("§10.6.1")
def the_list_of_studies_of_two_modalities(server: Server) -> None:
    found = server.found(f"studies?00100020=P-2&ModalitiesInStudy=CT,MR&limit=101&offset=0&fuzzymatching=true&{FIELDS}")
    assert [value(each, "0020000D") for each in found] == [MR]


@ohif.check("§10.6.1")
def one_study(server: Server) -> None:
    found = server.found(f"studies?limit=101&offset=0&fuzzymatching=true&{FIELDS}&StudyInstanceUID={CT}")
    assert [values(each, "00081030", "00100030", "00201208") for each in found] == [["CT chest", "19700101", 12]]


@ohif.check("§10.6.1")
def the_series_of_a_study(server: Server) -> None:
    found = server.found(f"studies/{MR}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011")
    assert sorted(value(each, "00200011") for each in found) == [1, 2, 3]


@ohif.check("§10.4.1.1.2")
def the_metadata_of_a_series(server: Server) -> None:
    assert len(server.found(f"studies/{CT}/series/{CT}.1/metadata")) == 12


def a_frame(server: Server, accept: str) -> None:
    film = max(server.of_syntax(*MEDIA_TYPES), key=lambda each: each.frames)
    found = part(server.get(f"{film.path}/frames/{film.frames // 2}", accept))
    assert (found.syntax, bool(found.body)) == (film.syntax, True)


for accept in (
    "multipart/related; type=application/octet-stream; transfer-syntax=*",
    'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
):
    ohif.add(f"a frame, {accept}", "§10.4.1.1.6", partial(a_frame, accept=accept))


@ohif.check("§10.4.1.1.4")
def a_thumbnail(server: Server) -> None:
    assert image(server, f"{FIRST}/thumbnail?accept=image/jpeg", OCTETS).format == "JPEG"


@ohif.check("§10.4.1.1.3")
def a_rendered_instance(server: Server) -> None:
    assert image(server, f"{FIRST}/rendered?accept=image/jpeg").format == "JPEG"


@ohif.check("§10.4.1.1.5")
def the_wave_of_an_ecg_alone(server: Server) -> None:
    ecg = next(each for each in server.files if "WaveformSequence" in each.data_set)
    (data_set,) = server.found(f"{ecg.path}/metadata")
    url = data_set["54000100"]["Value"][0]["54001010"].get("BulkDataURI")
    assert url is not None, "no BulkDataURI"
    answer = server.get(url, "application/octet-stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")


@dicomweb_client.check("§8.3.4.3")
def fields_by_keyword_and_tag(server: Server) -> None:
    answer = server.get(
        "studies?PatientID=P-1&includefield=StudyDescription&includefield=00100040&limit=5&offset=0",
        "application/dicom+json, application/json",
    )
    assert (answer.status_code, values(answer.json()[0], "00081030", "00100040")) == (200, ["CT chest", "F"])


@dicomweb_client.check("§8.3.4.4")
def pages_until_one_is_empty(server: Server) -> None:
    found: list[str] = []
    while True:
        answer = server.get(f"studies/{CT}/instances?limit=5&offset={len(found)}", BOTH)
        page = answer.json() if answer.status_code == 200 else []
        if not page:
            break
        found += [value(each, SOP) for each in page]
    assert len(set(found)) == len(found) == 12


@dicomweb_client.check("§10.4.1.1.6")
def frames_of_any_type(server: Server) -> None:
    film = max(server.of_syntax(JPEG_BASELINE), key=lambda each: each.frames)
    assert len(parts_of_any_type(server, f"{film.path}/frames/1,2,{film.frames}")) == 3
    assert len(parts_of_any_type(server, f"{FIRST}/frames/1")) == 1


def parts_of_any_type(server: Server, address: str) -> list[bytes]:
    return [each.body for each in parts(server.get(address, 'multipart/related; type="*/*"'))]


@dicomweb_client.check("§8.3.5.1")
def a_rendered_image_with_parameters(server: Server) -> None:
    found = image(server, f"{FIRST}/rendered?viewport=64,64&window=40,400,linear&quality=80", "*/*")
    assert found.size == (64, 64)
    assert image(server, f"{FIRST}/rendered", "image/png").format == "PNG"


@dicomweb_client.check("§10.4.1.1.5")
def bulk_data_with_a_host_without_a_port(server: Server) -> None:
    answer = server.get(f"{FIRST}/metadata", JSON, Host="127.0.0.1")
    (url,) = bulk_data(answer.json()[0])
    assert url.startswith(f"{server.url}/"), url
    assert part(server.get(url, OCTETS)).body


STUDY_FIELDS = (
    "includefield=00080020,00080030,00080050,00080061,00080090,00081030,00100010,00100020,00100021,00100030,00100040,0020000D,00200010"
)
OF_JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
"""What Java sends if a program names nothing, as those do that use its HttpURLConnection."""


@weasis.check("§10.6.1")
def a_study_by_its_uid(server: Server) -> None:
    for accept in ("*/*", OF_JAVA):
        answer = server.get(f"studies?0020000D={CT}&{STUDY_FIELDS}", accept)
        assert answer.status_code == 200, (accept, answer.status_code, answer.text[:200])
        assert [values(each, "00081030", "00100040", "00200010") for each in answer.json()] == [["CT chest", "F", "CT-7"]]


@weasis.check("§10.6.1")
def studies_without_a_condition_or_with_one(server: Server) -> None:
    assert len(server.found(f"studies?&{STUDY_FIELDS}&limit=10&offset=0")) == 10
    assert [value(each, "0020000D") for each in server.found(f"studies?00100020=P-1&&{STUDY_FIELDS}&limit=10&offset=0")] == [CT]


@weasis.check("§10.6.3.3")
def instances_at_the_address_of_their_series(server: Server) -> None:
    (series,) = server.found(f"studies/{CT}/series?includefield=0008103E,00080060,0020000E,00200011,00081190")
    address = value(series, RETRIEVE_URL)
    found = server.found(f"{address}/instances?includefield=00080018,00200013,00081190")
    assert {value(each, RETRIEVE_URL) for each in found} == {f"{address}/instances/{value(each, SOP)}" for each in found}
    page = server.found(f"{address}/instances?includefield=00080016,00080018,00200013&offset=8&limit=6")
    assert (len(found), len(page)) == (12, 4)


@weasis.check("§10.6.3.3")
def the_number_of_instances(server: Server) -> None:
    (series,) = server.found(f"studies/{CT}/series?0020000E={CT}.1&includefield=00201209")
    assert value(series, "00201209") == 12


@weasis.check("§10.4.1.1.1")
def an_instance_as_archived(server: Server) -> None:
    film = max(server.of_syntax(JPEG_BASELINE), key=lambda each: each.frames)
    assert part(server.get(film.path, 'multipart/related;type="application/dicom";transfer-syntax=*')).body == film.data


@weasis.check("§10.4.1.1.4")
def a_thumbnail_of_a_series(server: Server) -> None:
    found = image(server, f"studies/{CT}/series/{CT}.1/thumbnail?viewport=256%2C256", "image/jpeg")
    assert (found.format, max(found.size) <= 256) == ("JPEG", True)


def has_address(server: Server, headers: dict[str, str], expected: str) -> None:
    answer = server.get("studies?PatientID=P-1", JSON, **headers)
    assert value(answer.json()[0], RETRIEVE_URL) == f"{expected.format(port=server.client.base_url.port)}/studies/{CT}"


for name, headers, expected in (
    ("Host without a port", {"Host": "127.0.0.1"}, "http://127.0.0.1:{port}/dicom-web"),
    ("Host with another port", {"Host": "localhost:4711"}, "http://localhost:4711/dicom-web"),
    ("X-Forwarded-Proto", {"X_Forwarded_Proto": "https", "Host": "localhost"}, "https://localhost/dicom-web"),
    ("X-Forwarded-Host", {"X_Forwarded_Host": "localhost:8443", "X_Forwarded_Proto": "https"}, "https://localhost:8443/dicom-web"),
    ("X-Forwarded-Port", {"X_Forwarded_Host": "localhost", "X_Forwarded_Port": "8080"}, "http://localhost:8080/dicom-web"),
    ("X-Forwarded-Prefix", {"X_Forwarded_Host": "localhost", "X_Forwarded_Prefix": "/archive/"}, "http://localhost/archive/dicom-web"),
):
    addresses.add(name, "§8.2", partial(has_address, headers=headers, expected=expected))


@addresses.check("Fetch standard")
def no_header_lets_every_site_read(server: Server) -> None:
    answer = server.get("studies?limit=1", JSON, Origin="https://evil.example.org")
    assert answer.headers.get("access-control-allow-origin") is None
