"""Checks of retrieved instances, metadata and bulk data (WADO-RS). PS3.18 §8.6, §8.7, §10.4, Annex F."""

from __future__ import annotations

from functools import partial

import numpy as np

from tests.dicomweb.checks import (
    AS_STORED,
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    JSON,
    NATIVE,
    OCTETS,
    RLE,
    SOP,
    STUDY,
    File,
    Group,
    Server,
    bulk_data,
    part,
    parts,
    read,
    value,
)  # fmt: skip
from tests.support.annex_f import faults
from tests.support.dicom_archive import CT, JAPANESE, MR, NO_NUMBER, UMLAUT

instances = Group("Retrieve: instances")
metadata = Group("Retrieve: metadata")
bulk = Group("Retrieve: bulk data")

FIRST = f"studies/{CT}/series/{CT}.1/instances/{CT}.1.1"


@instances.check("§8.7.3.5.2")
def every_instance_comes_back_byte_for_byte(server: Server) -> None:
    for file in server.files:
        assert part(server.get(file.path, AS_STORED)).body == file.data, file


@instances.check("§8.7.3.5.2")
def each_part_names_its_transfer_syntax(server: Server) -> None:
    for file in server.files:
        if file.syntax:
            assert part(server.get(file.path, AS_STORED)).syntax == file.syntax, file


@instances.check("§8.7.1")
def an_instance_alone(server: Server) -> None:
    answer = server.get(FIRST, "application/dicom; transfer-syntax=*")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "application/dicom")
    assert answer.content == next(file.data for file in server.files if file.uid == f"{CT}.1.1")


def comes_in_explicit_little_endian(server: Server, syntax: str) -> None:
    for file in server.of_syntax(syntax):
        answer = server.get(file.path, 'multipart/related; type="application/dicom"')
        if answer.status_code in {406, 409}:  # damaged pixels, or a kind that has no decoder
            assert not decodes(file.data), file
            continue
        made = read(part(answer).body)
        assert made.file_meta.TransferSyntaxUID == EXPLICIT, file
        assert made.SOPInstanceUID == file.uid
        if decodes(file.data):
            assert np.array_equal(made.pixel_array, file.data_set.pixel_array), file


def decodes(data: bytes) -> bool:
    """Return whether pydicom decodes the pixels."""
    try:
        read(data).pixel_array  # noqa: B018 - it raises
    except Exception:  # noqa: BLE001 - whatever a decoder raises
        return False
    return True


for name, syntax in (
    ("big endian", BIG_ENDIAN), ("deflated", DEFLATED), ("RLE", RLE), ("JPEG lossless", JPEG_LOSSLESS), ("JPEG-LS", JPEG_LS),
    ("JPEG 2000 lossless", JPEG_2000),
):  # fmt: skip
    instances.add(f"{name} becomes explicit little endian", "§8.7.3.5.2", partial(comes_in_explicit_little_endian, syntax=syntax))


@instances.check("§10.4.1.1.1")
def the_instances_of_a_series_and_of_a_study(server: Server) -> None:
    for address, count in ((f"studies/{CT}", 12), (f"studies/{CT}/series/{CT}.1", 12), (f"studies/{MR}", 3)):
        found = parts(server.get(address, AS_STORED))
        assert len({read(each.body).SOPInstanceUID for each in found}) == count == len(found), address


@instances.check("§8.7.8")
def another_media_type_is_406(server: Server) -> None:
    for accept in ("text/html", 'multipart/related; type="image/png"', 'multipart/related; type="application/dicom+xml"'):
        assert server.get(FIRST, accept).status_code == 406, accept


@instances.check("§8.7.3.5.2")
def an_unknown_transfer_syntax_is_406(server: Server) -> None:
    assert server.get(FIRST, 'multipart/related; type="application/dicom"; transfer-syntax=1.2.3').status_code == 406


def takes(server: Server, accept: str) -> None:
    assert part(server.get(FIRST, accept)).media_type == "application/dicom"


for accept in (
    'multipart/related; type="application/dicom"; transfer-syntax=*', 'multipart/related; type="application/dicom"; transfer-syntax="*"',
    "multipart/related; type=application/dicom; transfer-syntax=*", 'multipart/related; type="application/dicom"',
    f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}', 'Multipart/Related;TYPE="application/dicom"',
    'multipart/related; type="image/png", multipart/related; type="application/dicom"; transfer-syntax=*;q=0.5', "multipart/related",
):  # fmt: skip
    instances.add(f"Accept: {accept}", "§8.7.7", partial(takes, accept=accept))


@instances.check("§8.7.6")
def the_parameter_accept_comes_before_the_header(server: Server) -> None:
    answer = server.get(f"{FIRST}?accept=application/dicom%3B+transfer-syntax%3D*", "text/html")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "application/dicom")


@instances.check("RFC 2046 §5.1.1")
def each_answer_has_a_boundary_of_its_own(server: Server) -> None:
    first, second = (server.get(FIRST, AS_STORED).headers["content-type"] for _ in range(2))
    assert first != second


@instances.check("§10.4.3.1")
def unknown_studies_series_and_instances_are_404(server: Server) -> None:
    for address in (f"studies/{CT}.99", f"studies/{CT}/series/{CT}.99", f"studies/{CT}/series/{CT}.1/instances/{CT}.1.99"):
        for of in ("", "/metadata"):
            answer = server.get(address + of, JSON if of else AS_STORED)
            assert answer.status_code == 404, (address + of, answer.status_code)


@instances.check("§10.4.3.1")
def an_instance_of_another_study_is_404(server: Server) -> None:
    for address in (f"studies/{MR}/series/{CT}.1/instances/{CT}.1.1", f"studies/{CT}/series/{MR}.1/instances/{CT}.1.1"):
        assert server.get(address, AS_STORED).status_code == 404, address


@metadata.check("§F.2")
def every_data_set_is_valid_dicom_json(server: Server) -> None:
    for file in server.files:
        answer = server.get(f"{file.path}/metadata", JSON)
        assert answer.status_code == 200, (file, answer.status_code)
        assert faults(answer.content.strip()[1:-1]) == [], file


@metadata.check("§10.4.1.1.2")
def metadata_of_study_and_series_are_those_of_their_instances(server: Server) -> None:
    for address, count in ((f"studies/{CT}", 12), (f"studies/{CT}/series/{CT}.1", 12), (f"studies/{MR}", 3)):
        found = server.found(f"{address}/metadata")
        assert len({value(each, SOP) for each in found}) == count == len(found), address
        assert {value(each, STUDY) for each in found} == {address.split("/")[1]}


@metadata.check("§10.4.1.1.2")
def metadata_has_no_pixels_but_their_address(server: Server) -> None:
    (data_set,) = server.found(f"{FIRST}/metadata")
    assert set(data_set["7FE00010"]) == {"vr", "BulkDataURI"}


@metadata.check("§F.2.2")
def metadata_is_in_utf_8_and_says_so(server: Server) -> None:
    for file in server.files:
        (data_set,) = server.found(f"{file.path}/metadata")
        assert data_set.get("00080005") in (None, {"vr": "CS", "Value": ["ISO_IR 192"]}), (file, data_set["00080005"])


@metadata.check("Table F.3.1-1")
def names_in_metadata_have_groups(server: Server) -> None:
    found = {uid: value(server.found(f"studies/{uid}/metadata")[0], "00100010") for uid in (UMLAUT, JAPANESE)}
    assert found == {
        UMLAUT: {"Alphabetic": "MÜLLER^JÖRG"},
        JAPANESE: {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
    }


@metadata.check("§F.2.3")
def numbers_are_numbers(server: Server) -> None:
    (data_set,) = server.found(f"{FIRST}/metadata")
    assert [value(data_set, tag) for tag in ("00200013", "00281052", "00281053")] == [1, -1024, 1]


@metadata.check("§F.2.5")
def what_is_empty_has_no_value(server: Server) -> None:
    (data_set,) = server.found(f"studies/{MR}/series/{MR}.1/metadata")
    assert data_set["00080090"] == {"vr": "PN"}


@metadata.check("§8.7.3.2")
def metadata_as_application_json_or_by_wildcard(server: Server) -> None:
    for accept in ("application/json", "*/*", "application/dicom+json, application/json"):
        answer = server.get(f"{FIRST}/metadata", accept)
        assert (answer.status_code, len(answer.json())) == (200, 1), accept


@metadata.check("§8.7.8")
def metadata_as_text_is_406(server: Server) -> None:
    assert server.get(f"{FIRST}/metadata", "text/html").status_code == 406


@bulk.check("§10.4.1.1.5")
def addresses_of_bulk_data_are_those_of_the_service(server: Server) -> None:
    for file in server.files:
        (data_set,) = server.found(f"{file.path}/metadata")
        for url in bulk_data(data_set):
            assert url.startswith(f"{server.url}/"), url


@bulk.check("§10.4.1.1.5")
def all_bulk_data_comes_alone_and_as_a_part(server: Server) -> None:
    compared = 0
    for file in server.files:
        if file.syntax not in NATIVE or is_truncated(file):
            continue
        (data_set,) = server.found(f"{file.path}/metadata")
        for url in bulk_data(data_set):
            alone = server.get(url, "application/octet-stream")
            assert alone.status_code == 200, (url, alone.status_code, alone.text[:100])
            assert part(server.get(url, OCTETS)).body == alone.content, url
            compared += 1
    assert compared > 20, compared


def is_truncated(file: File) -> bool:
    """Return whether fewer pixels are there than the attributes say."""
    return file.frames > 0 and len(file.data_set.PixelData) < file.frame_bytes * file.frames


@bulk.check("§8.7.3.3.1")
def bulk_data_of_pixels_are_the_pixels(server: Server) -> None:
    (data_set,) = server.found(f"{FIRST}/metadata")
    file = next(each for each in server.files if each.uid == f"{CT}.1.1")
    assert part(server.get(data_set["7FE00010"]["BulkDataURI"], OCTETS)).body == file.data_set.PixelData


@bulk.check("§F.2.6")
def bulk_data_in_sequences(server: Server) -> None:
    ecg = next(each for each in server.files if "WaveformSequence" in each.data_set)
    (data_set,) = server.found(f"{ecg.path}/metadata")
    wave = data_set["54000100"]["Value"][0]["54001010"]
    expected = ecg.data_set.WaveformSequence[0].WaveformData
    answer = server.get(wave["BulkDataURI"], "application/octet-stream")
    assert (answer.status_code, answer.content) == (200, expected)


@bulk.check("§10.4.3.1")
def bulk_data_that_is_not_there_is_404(server: Server) -> None:
    (data_set,) = server.found(f"{FIRST}/metadata")
    url = data_set["7FE00010"]["BulkDataURI"]
    assert server.get(url.replace("7FE00010", "00091010").replace("7fe00010", "00091010"), OCTETS).status_code == 404


@metadata.check("§F.2.3")
def an_invalid_number_does_not_hide_the_others(server: Server) -> None:
    odd = next(each for each in server.files if each.study == NO_NUMBER)
    (data_set,) = server.found(f"{odd.path}/metadata")
    assert data_set["00181150"] in ({"vr": "IS", "Value": ["1A"]}, {"vr": "IS"})
    assert value(data_set, SOP) == odd.uid
