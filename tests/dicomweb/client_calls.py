"""Calls every search and retrieve method of dicomweb-client (PyPI), and prints what came as JSON: python client_calls.py URL TOKEN < UIDS.

It runs in an environment that has dicomweb-client, and nothing of this project. A method that raises ends it.
"""

# ruff: noqa: T201 - its result is what it prints
from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterable
from typing import Any

from dicomweb_client.api import DICOMwebClient  # type: ignore[import-not-found] # not in our environment
from PIL import Image

EXPLICIT = "1.2.840.10008.1.2.1"
AS_STORED = (("application/dicom", "*"),)
OCTETS = (("application/octet-stream", "*"),)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uids(found: Iterable[Any]) -> list[str]:
    """Return the SOP Instance UIDs of data sets, sorted."""
    return sorted(str(each.SOPInstanceUID) for each in found)


def of(found: Iterable[Any], tag: str) -> list[Any]:
    """Return the first value of an attribute in each object, sorted."""
    return sorted(each[tag]["Value"][0] for each in found)


def picture(data: bytes) -> list[Any]:
    image = Image.open(io.BytesIO(data))
    return [image.format, *image.size]


def searches(client: DICOMwebClient, ct: str, mr: str) -> dict[str, Any]:
    study, series, sop = "0020000D", "0020000E", "00080018"
    return {
        "studies": len(client.search_for_studies(get_remaining=True, limit=50)),
        "studies, one page": len(client.search_for_studies(limit=7, offset=3)),
        "studies, filtered": of(client.search_for_studies(search_filters={"PatientID": "P-?", "StudyDate": "20260301-"}), study),
        "studies, fuzzy": of(client.search_for_studies(fuzzymatching=True, search_filters={"PatientName": "jorg muller"}), "00100020"),
        "studies, with fields": of(
            client.search_for_studies(fields=["InstitutionName", "00080070"], search_filters={"00100020": "P-1"}), "00080080"
        ),
        "series": of(client.search_for_series(search_filters={"Modality": "SR", "PatientID": "P-2"}), series),
        "series of a study": of(client.search_for_series(mr, fields=["SeriesDate"]), series),
        "instances": of(client.search_for_instances(search_filters={"SOPInstanceUID": f"{mr}.2.1"}), sop),
        "instances of a study": len(client.search_for_instances(ct, get_remaining=True, limit=5)),
        "instances of a series": of(client.search_for_instances(ct, f"{ct}.1", limit=2, offset=10), "00200013"),
    }


def retrieves(client: DICOMwebClient, ct: str, mr: str, film: list[str]) -> dict[str, Any]:
    one = ct, f"{ct}.1", f"{ct}.1.1"
    metadata = client.retrieve_instance_metadata(*one)
    pixels = metadata["7FE00010"]["BulkDataURI"]
    frames = client.retrieve_instance_frames(*film, frame_numbers=[1, 2, 30], media_types=OCTETS)
    return {
        "study": uids(client.retrieve_study(mr)),
        "study, one by one": uids(client.iter_study(mr, media_types=AS_STORED)),
        "study's metadata": of(client.retrieve_study_metadata(mr), "00080018"),
        "series": len(client.retrieve_series(ct, f"{ct}.1", media_types=AS_STORED)),
        "series, one by one": len(list(client.iter_series(ct, f"{ct}.1"))),
        "series' metadata": len(client.retrieve_series_metadata(ct, f"{ct}.1")),
        "series, rendered": picture(client.retrieve_series_rendered(ct, f"{ct}.1", media_types=("image/jpeg",))),
        "instance": uids([client.retrieve_instance(*one)]),
        "instance, as stored": str(client.retrieve_instance(*film, media_types=AS_STORED).file_meta.TransferSyntaxUID),
        "instance, explicit": str(
            client.retrieve_instance(*film, media_types=(("application/dicom", EXPLICIT),)).file_meta.TransferSyntaxUID
        ),
        "instance's metadata": metadata["00080018"]["Value"],
        "instance, rendered": picture(client.retrieve_instance_rendered(*one)),
        "instance, rendered as PNG": picture(
            client.retrieve_instance_rendered(
                *one, media_types=("image/png",), params={"viewport": "32,32", "window": "40,400,linear", "quality": "80"}
            )
        ),
        "frames": [digest(each) for each in frames],
        "frames, one by one": [digest(each) for each in client.iter_instance_frames(*film, frame_numbers=[30, 1], media_types=OCTETS)],
        "frames of any type": [len(each) for each in client.retrieve_instance_frames(*one, frame_numbers=[1])],
        "frames, decoded": len(client.retrieve_instance_frames(*film, [2], media_types=(("application/octet-stream", EXPLICIT),))[0]),
        "frame, rendered": picture(client.retrieve_instance_frames_rendered(*film, [2], media_types=("image/png",))),
        "bulk data": [digest(each) for each in client.retrieve_bulkdata(pixels)],
        "bulk data, piece by piece": [digest(b"".join(client.iter_bulkdata(pixels, media_types=("application/octet-stream",))))],
    }


def main() -> None:
    address, token = sys.argv[1:]
    given = json.load(sys.stdin)
    client = DICOMwebClient(address, headers={"Authorization": f"Bearer {token}"})
    client.set_http_retry_params(retry=False)
    found = {"search": searches(client, given["ct"], given["mr"]), "retrieve": retrieves(client, given["ct"], given["mr"], given["film"])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
