"""Checks of searches (QIDO-RS): what they match, what they return, pages, and queries that are none. PS3.18 §8.3.4, §10.6."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from tests.dicomweb.checks import JSON, PATIENT_ID, PATIENT_NAME, RETRIEVE_URL, SERIES, SOP, STUDY, Group, Server, value, values
from tests.support.annex_f import faults_of
from tests.support.dicom_archive import COPIES, CT, JAPANESE, MR, TWINS, UMLAUT

matching = Group("Search: matching")
left_open = Group("Search: what the standard leaves open, and users expect")
results = Group("Search: what is returned")
pages = Group("Search: pages")
refusals = Group("Search: invalid queries and media types")


def finds(server: Server, query: str, expected: set[str]) -> None:
    found = server.studies(query)
    assert found == expected, f"{query} found {sorted(found)}, not {sorted(expected)}"


MATCHING = (
    ("PS3.4 §C.2.2.2.1", "one value, by keyword", "PatientID=P-1", {CT}),
    ("§8.3.4.1", "one value, by tag", "00100020=P-1", {CT}),
    ("PS3.4 §C.2.2.2.1", "case matters, except in names", "PatientID=p-1", set()),
    ("PS3.4 §C.2.2.2.1", "brackets are letters", "AccessionNumber=ACC[1]", {CT}),
    ("PS3.4 §C.2.2.2.1", "a study's ID", "StudyID=CT-7", {CT}),
    ("PS3.4 §C.2.2.2.4", "a question mark", "PatientID=P-%3F", {CT, MR, JAPANESE, UMLAUT, TWINS, COPIES}),
    ("PS3.4 §C.2.2.2.4", "an asterisk at the beginning", "PatientID=*-2&StudyDate=20260302", {MR}),
    ("PS3.4 §C.2.2.2.4", "an asterisk beside brackets", "AccessionNumber=ACC[*", {CT}),
    ("PS3.4 §C.2.2.2.4", "an asterisk in a name", "PatientName=DOE*&StudyDate=20260301", {CT}),
    ("PS3.4 §C.2.2.2.4", "asterisks around a part of a name", "PatientName=*OE^JA*&StudyDate=20260301", {CT}),
    ("PS3.4 §C.2.2.2.1", "a part of a name is not the name", "PatientName=DOE&StudyDate=20260301", set()),
    ("PS3.4 §C.2.2.2.3", "an empty value matches everything", "PatientName=&PatientID=P-1", {CT}),
    ("PS3.4 §C.2.2.2.3", "an attribute without a value matches everything", f"SeriesDescription=&StudyInstanceUID={CT}", {CT}),
    ("PS3.4 §C.2.2.2.1", "a day", "StudyDate=20260301", {CT}),
    ("PS3.4 §C.2.2.2.5", "a period", "StudyDate=20260301-20260302", {CT, MR}),
    ("PS3.4 §C.2.2.2.5", "a period without an end", "StudyDate=20260302-", {MR}),
    ("PS3.4 §C.2.2.2.5", "a period without a beginning", "StudyDate=-20260301&PatientID=P-1", {CT}),
    ("PS3.4 §C.2.2.2.5", "a period of times", "StudyDate=20260301&StudyTime=100000-110000", {CT}),
    ("PS3.4 §C.2.2.2.5", "a time before which nothing was", "StudyDate=20260301&StudyTime=101600-", set()),
    ("PS3.4 §C.2.2.2.5", "a time of day until", "StudyDate=20260301&StudyTime=-101500", {CT}),
    ("Table 10.6.1-5", "modalities in study", "ModalitiesInStudy=SR&PatientID=P-2", {MR}),
    ("PS3.4 §C.2.2.2.4", "an asterisk in modalities in study", "ModalitiesInStudy=M*&PatientID=P-2", {MR}),
    ("Table 10.6.1-5", "the referring physician", "ReferringPhysicianName=House*&StudyDate=20260301", {CT}),
    ("PS3.4 §C.2.2.2.1", "a study's UID", f"StudyInstanceUID={CT}", {CT}),
    ("§8.3.4.1", "a list of UIDs with commas", f"StudyInstanceUID={CT},{MR}", {CT, MR}),
    ("§8.3.4.1", "a list of UIDs with escaped commas", f"StudyInstanceUID={CT}%2C{MR}", {CT, MR}),
    ("PS3.4 §C.2.2.2.2", "a list of UIDs with backslashes", f"StudyInstanceUID={CT}%5C{MR}", {CT, MR}),
    ("§8.3.1", "letters beyond ASCII", "PatientName=M%C3%9CLLER*", {UMLAUT}),
    ("PS3.4 §C.2.2.2.4", "a name of several groups", "PatientName=Yamada^Tarou%3D%E5%B1%B1%E7%94%B0^*", {JAPANESE}),
    ("PS3.4 §C.2.2.2", "several attributes", "PatientID=P-2&StudyDate=20260302&ModalitiesInStudy=MR", {MR}),
    ("PS3.4 §C.2.2.2", "nothing is found", "PatientID=nobody", set()),
    ("§8.3.4.2", "fuzzymatching does not lose a name that matches", "PatientName=DOE^JANE&fuzzymatching=true", {CT}),
)  # fmt: skip
"""Where the standard says so, the check's name, its query, and the studies that match."""

LEFT_OPEN = (
    ("PS3.4 §C.2.2.2.1", "a name in other letters, large and small", "PatientName=doe^jane", {CT}),
    ("PS3.4 §C.2.2.2.1", "an umlaut in small letters", "PatientName=m%C3%BCller*", {UMLAUT}),
    ("PS3.4 §C.2.2.2.1", "the ideographic group of a name", "PatientName=%E5%B1%B1%E7%94%B0%5E%E5%A4%AA%E9%83%8E", {JAPANESE}),
    ("PS3.4 §C.2.2.2.1", "the beginning of the ideographic group", "PatientName=%E5%B1%B1%E7%94%B0*", {JAPANESE}),
    ("PS3.4 §C.2.2.2.1", "the alphabetic group of a name of several", "PatientName=Yamada^Tarou", {JAPANESE}),
    ("PS3.5 §6.2.1", "empty components at the end of a name", "PatientName=Doe^John^^Dr^", {MR}),
    ("§8.3.4.2", "another spelling", "PatientName=mueller&fuzzymatching=true", {UMLAUT}),
    ("§8.3.4.2", "words in another order", "PatientName=jorg%20muller&fuzzymatching=true", {UMLAUT}),
    ("§8.3.4.2", "not without being asked", "PatientName=jorg%20muller&fuzzymatching=false", set()),
    ("PS3.4 §C.2.2.2.1", "modalities with a comma", "ModalitiesInStudy=CT,SR&PatientID=P-*&StudyDate=20260301-20260302", {CT, MR}),
    ("PS3.4 §C.2.2.2.1", "modalities with a backslash", "ModalitiesInStudy=CT%5CSR&PatientID=P-*&StudyDate=20260301-20260302", {CT, MR}),
    ("PS3.4 §C.2.2.2.1", "a minute includes its seconds", "StudyDate=20260301&StudyTime=1015", {CT}),
    ("PS3.4 §C.2.2.2.1", "a date with hyphens", "StudyDate=2026-03-02", {MR}),
    ("§10.6.1.2", "a description, with a space", "PatientID=P-1&StudyDescription=CT%20chest", {CT}),
    ("Table 10.6.1-5", "the UID of a series finds its study", f"SeriesInstanceUID={MR}.2", {MR}),
    ("Table 10.6.1-5", "the UID of an instance finds its study", f"SOPInstanceUID={MR}.2.1", {MR}),
    ("§8.3.1", "a query that is SQL", "PatientName=%27%29%20OR%201%3D1%20--", set()),
)  # fmt: skip

for of, table in ((matching, MATCHING), (left_open, LEFT_OPEN)):
    for source, name, query, expected in table:
        of.add(name, source, partial(finds, query=query, expected=expected))


@results.check("Table 10.6.3-3")
def a_study_has_the_required_attributes(server: Server) -> None:
    (study,) = server.found("studies?PatientID=P-1")
    expected = {
        "00080020": "20260301", "00080030": "101500", "00080050": "ACC[1]", "00080061": "CT", "00080090": {"Alphabetic": "House^Gregory"},
        PATIENT_NAME: {"Alphabetic": "DOE^JANE"}, PATIENT_ID: "P-1", "00100030": "19700101", "00100040": "F", STUDY: CT, "00200010": "CT-7",
        "00201206": 1, "00201208": 12,
    }  # fmt: skip
    assert dict(zip(expected, values(study, *expected), strict=True)) == expected


@results.check("Table 10.6.3-4")
def a_series_has_the_required_attributes(server: Server) -> None:
    (series,) = server.found(f"studies/{CT}/series")
    assert values(series, "00080060", SERIES, "00200011", "00201209") == ["CT", f"{CT}.1", 1, 12]


@results.check("Table 10.6.3-5")
def an_instance_has_the_required_attributes(server: Server) -> None:
    found = server.found(f"studies/{CT}/series/{CT}.1/instances")
    assert sorted(value(each, "00200013") for each in found) == list(range(1, 13))
    first = next(each for each in found if value(each, SOP) == f"{CT}.1.1")
    assert values(first, "00080016", "00280010", "00280011", "00280100") == ["1.2.840.10008.5.1.4.1.1.2", 64, 64, 16]


@results.check("Table 10.6.3-5")
def the_number_of_frames(server: Server) -> None:
    film = next(each for each in server.files if each.frames > 1)
    (instance,) = server.found(f"studies/{film.study}/instances?SOPInstanceUID={film.uid}")
    assert values(instance, "00280008") == [film.frames]


@results.check("Table 10.6.3-3")
def the_availability_of_instances(server: Server) -> None:
    for address in (f"studies?StudyInstanceUID={CT}", f"studies/{CT}/instances?limit=1"):
        assert values(server.found(address)[0], "00080056") == ["ONLINE"], address


@results.check("Table 10.6.3-3")
def the_address_of_each_result(server: Server) -> None:
    study = f"{server.url}/studies/{CT}"
    for address, expected in (
        (f"studies?StudyInstanceUID={CT}", study), (f"studies/{CT}/series", f"{study}/series/{CT}.1"),
        (f"studies/{CT}/instances?SOPInstanceUID={CT}.1.1", f"{study}/series/{CT}.1/instances/{CT}.1.1"),
    ):  # fmt: skip
        assert values(server.found(address)[0], RETRIEVE_URL) == [expected]


@results.check("§10.6.3.3")
def series_of_all_studies_have_the_attributes_of_their_study(server: Server) -> None:
    (series,) = server.found("series?Modality=SR&PatientID=P-2")
    assert values(series, SERIES, STUDY, PATIENT_ID) == [f"{MR}.3", MR, "P-2"]


@results.check("§10.6.3.3")
def instances_of_all_studies_have_the_attributes_of_study_and_series(server: Server) -> None:
    (instance,) = server.found(f"instances?SOPInstanceUID={MR}.2.1")
    assert values(instance, SERIES, STUDY, PATIENT_ID, "00080060") == [f"{MR}.2", MR, "P-2", "MR"]


@results.check("Table 10.6.1-5")
def instances_of_a_study_by_modality(server: Server) -> None:
    assert {value(each, SERIES) for each in server.found(f"studies/{MR}/instances?Modality=MR")} == {f"{MR}.1", f"{MR}.2"}


@results.check("Table 10.6.1-5")
def series_by_number(server: Server) -> None:
    assert [value(each, SERIES) for each in server.found(f"studies/{MR}/series?SeriesNumber=2")] == [f"{MR}.2"]


@results.check("Table 10.6.1-5")
def instances_by_number_and_class(server: Server) -> None:
    found = server.found(f"studies/{CT}/instances?InstanceNumber=3&SOPClassUID=1.2.840.10008.5.1.4.1.1.2")
    assert [value(each, SOP) for each in found] == [f"{CT}.1.3"]


@results.check("Table 10.6.1-5")
def series_by_the_procedure_that_was_requested(server: Server) -> None:
    found = server.found("series?RequestAttributesSequence.RequestedProcedureID=RP-1")
    assert [value(each, STUDY) for each in found] == [CT]
    (item,) = found[0]["00400275"]["Value"]
    assert values(item, "00401001", "00400009") == ["RP-1", "SPS-1"]


@results.check("§8.3.4.1")
def series_by_the_step_that_was_scheduled_by_tags(server: Server) -> None:
    for name in ("00400275.00400009", "RequestAttributesSequence.00400009", "00400275.ScheduledProcedureStepID"):
        assert [value(each, SERIES) for each in server.found(f"series?{name}=SPS-3")] == [f"{MR}.1"], name


@results.check("PS3.4 §C.2.2.2.6")
def one_item_of_a_sequence_has_to_match_all_that_is_asked_of_it(server: Server) -> None:
    asked = f"studies/{MR}/series?00400275.00401001=RP-2&00400275.00400009="
    assert [value(each, SERIES) for each in server.found(f"{asked}SPS-2")] == [f"{MR}.1"]
    assert server.found(f"{asked}SPS-3") == []


@results.check("Table 10.6.3-4")
def series_have_the_requests_that_are_known(server: Server) -> None:
    found = {value(each, SERIES): each for each in server.found(f"studies/{MR}/series")}
    requests = [values(item, "00401001", "00400009") for item in found[f"{MR}.1"]["00400275"]["Value"]]
    assert requests == [["RP-2", "SPS-2"], ["RP-3", "SPS-3"]]
    assert not found[f"{MR}.2"].get("00400275", {}).get("Value")


@results.check("§F.2")
def every_object_is_valid_dicom_json(server: Server) -> None:
    for address in ("studies?limit=200", "series?limit=300", "instances?limit=500"):
        for each in server.found(address):
            assert faults_of(each) == [], each


@results.check("§F.2.2")
def text_is_in_utf_8_and_says_so(server: Server) -> None:
    for each in server.found("studies?PatientID=P-*"):
        assert each.get("00080005") in (None, {"vr": "CS", "Value": ["ISO_IR 192"]}), each["00080005"]


@results.check("Table F.3.1-1")
def the_groups_of_a_name_are_apart(server: Server) -> None:
    (study,) = server.found("studies?PatientID=P-3")
    assert value(study, PATIENT_NAME) == {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


@results.check("§10.6.3.1")
def nothing_found_is_an_empty_list_or_204(server: Server) -> None:
    answer = server.get("studies?PatientID=nobody", JSON)
    assert (answer.status_code, answer.content.strip()) in {(200, b"[]"), (204, b"")}


def includes(server: Server, fields: str) -> None:
    (study,) = server.found(f"studies?PatientID=P-1&{fields}")
    assert values(study, "00081030", "00100040") == ["CT chest", "F"]
    (instance,) = server.found(f"studies/{CT}/instances?SOPInstanceUID={CT}.1.1&{fields}")
    assert values(instance, "00080070", "00080080") == ["ACME", "General Hospital"]


for name, fields in (
    ("fields with a comma", "includefield=StudyDescription,00100040,00080070,InstitutionName"),
    ("fields with an escaped comma", "includefield=00081030%2CPatientSex%2CManufacturer%2C00080080"),
    ("fields one by one", "includefield=StudyDescription&includefield=00100040&includefield=Manufacturer&includefield=00080080"),
    ("all fields", "includefield=all"),
):
    results.add(name, "§8.3.4.3", partial(includes, fields=fields))


@results.check("§8.3.4.3")
def an_unknown_field_is_ignored(server: Server) -> None:
    assert len(server.found("studies?PatientID=P-1&includefield=nonsense")) == 1


@pages.check("§8.3.4.4")
def pages_together_are_everything(server: Server) -> None:
    everything = [value(each, SOP) for each in server.found("instances")]
    assert {each.uid for each in server.files} <= set(everything)
    found: list[str] = []
    for offset in itertools.count(0, 20):
        page = server.found(f"instances?limit=20&offset={offset}")
        found += [value(each, SOP) for each in page]
        if not page:
            break
    assert sorted(found) == sorted(everything)


@pages.check("§8.3.4.4")
def a_limit_is_kept_at_every_level(server: Server) -> None:
    for address in ("studies", "series", "instances", f"studies/{CT}/instances", f"studies/{MR}/series"):
        assert len(server.found(f"{address}?limit=2")) == 2, address


@pages.check("§8.3.4.4")
def an_offset_beyond_the_end(server: Server) -> None:
    answer = server.get("studies?limit=10&offset=100000", JSON)
    assert (answer.status_code, answer.content.strip()) in {(200, b"[]"), (204, b"")}


@pages.check("§8.3.4.4")
def an_offset_without_a_limit(server: Server) -> None:
    every = server.found(f"studies/{CT}/instances")
    assert [value(each, SOP) for each in server.found(f"studies/{CT}/instances?offset=10")] == [value(each, SOP) for each in every[10:]]


def refused(server: Server, query: str) -> None:
    answer = server.get(f"studies?{query}", JSON)
    assert answer.status_code == 400, f"{answer.status_code} {answer.text[:100]}"


for query in ("limit=-1", "limit=x", "offset=1.5", "StudyDate=yesterday", "fuzzymatching=perhaps", "StudyInstanceUID=1.2.x"):
    refusals.add(f"400 for {query}", "§10.6.3.1", partial(refused, query=query))


def accepted(server: Server, accept: str, parameter: str, expected: tuple[int, str | None]) -> None:
    answer = server.get(f"studies?limit=1{parameter}", accept)
    got: tuple[int, Any] = answer.status_code, answer.headers.get("content-type", "").partition(";")[0]
    assert got == (expected if expected[1] else (expected[0], got[1])), got


for accept, parameter, expected_answer in (
    (JSON, "", (200, JSON)), ("application/dicom+json, application/json", "", (200, JSON)), ("*/*", "", (200, JSON)),
    ("application/*", "", (200, JSON)), ("application/dicom+json; charset=utf-8", "", (200, JSON)),
    ("text/html;q=0.5, application/dicom+json", "", (200, JSON)),
    ("text/html", "&accept=application/dicom%2Bjson", (200, JSON)), ("text/html", "", (406, None)), ("image/png", "", (406, None)),
):  # fmt: skip
    title = f"{accept}{parameter and ', ' + parameter[1:]}: {expected_answer[0]}"
    refusals.add(title, "§8.7.8", partial(accepted, accept=accept, parameter=parameter, expected=expected_answer))


@refusals.check("§8.7.3.2")
def application_json_is_json(server: Server) -> None:
    answer = server.get("studies?limit=1", "application/json")
    assert (answer.status_code, len(answer.json())) == (200, 1)


@refusals.check("§8.1.1.1")
def a_search_by_another_method_is_refused(server: Server) -> None:
    for method in ("PUT", "DELETE"):
        assert server.client.request(method, "studies").status_code in {401, 403, 404, 405}, method


@refusals.check("§8.2")
def an_unknown_resource(server: Server) -> None:
    for address in ("nonsense", f"studies/{CT}/nonsense", f"studies/{CT}/series/{CT}.1/nonsense"):
        assert server.get(address).status_code in {400, 404}, address
