"""An archive of real DICOM files, for DICOMweb: pydicom's own files of all kinds, and studies made for searches."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from storage_ledger.archive.dicom_header import read_header
from tests.support.dicom import described, make_file, testdata_files
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline

ROOT = "1.2.826.0.1.3680043.8.498.7"
CT, MR, JAPANESE, UMLAUT, TWINS, COPIES, NO_NUMBER = (f"{ROOT}.{number}" for number in range(1, 8))


def with_a_uid_of_its_own(data: bytes, number: int, seen: set[bytes]) -> bytes:
    """Return the file; if another one has its SOP Instance UID, as many of pydicom's have, with other digits at the end of it."""
    found = re.search(rb"\x08\x00\x18\x00(?:UI..|....)([0-9.]{8,64})", data, re.DOTALL)
    if found is None:
        return data
    uid = found[1]
    if uid in seen:
        data = data.replace(uid, uid[:-4] + b"9%03d" % number)
    seen.add(uid)
    return data


def request(number: int) -> Dataset:
    """Return an item of RequestAttributesSequence."""
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = f"RP-{number}", f"SPS-{number}"
    return item


@dataclass
class Archived:
    """Where it is, and the source of each instance, by its Study, Series and SOP Instance UID."""

    folder: Path
    sources: dict[tuple[str, str, str], bytes] = field(default_factory=dict)


def make_dicom_archive(folder: Path) -> Archived:
    """Make the archive: every file of pydicom's wheel (with different SOP Instance UIDs), a CT of 12 slices, an MR of two series,
    names in other scripts, a number that is none, two different files with one SOP Instance UID, and one file that was archived twice."""
    pipeline = Pipeline(folder, Ledgers(folder), grace_s=0)
    pipeline.clock.now = datetime.now(UTC) - timedelta(minutes=5)
    archived = Archived(folder)
    seen: set[bytes] = set()

    def deliver(study_id: str, path: Path) -> None:
        pipeline.deliver(json.dumps(described(study_id, path.name)).encode())
        with path.open("rb") as file:
            header, _ = read_header(file)
        uids = tuple(str((header or {}).get(name) or "") for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        if all(uids):
            archived.sources.setdefault(uids, path.read_bytes())  # type: ignore[arg-type] # three of them

    for number, source in enumerate(testdata_files()):
        path = pipeline.uploads / f"pydicom-{number}.dcm"
        path.write_bytes(with_a_uid_of_its_own(source.read_bytes(), number, seen))
        deliver(f"pydicom-{number}", path)

    def bring(study_id: str, study: str, series: int = 1, number: int = 1, **elements: Any) -> None:
        path = pipeline.uploads / f"{study_id}.dcm"
        uids = {"series_uid": f"{study}.{series}", "sop_uid": f"{study}.{series}.{number}"}
        about = {**uids, "rows": 64, "columns": 64, "seed": number, "SeriesNumber": series, "InstanceNumber": number, **elements}
        make_file(path, study_uid=study, **about)
        if study == NO_NUMBER:
            path.write_bytes(path.read_bytes().replace(b"\x18\x00\x50\x11IS\x02\x0010", b"\x18\x00\x50\x11IS\x02\x001A"))
        deliver(study_id, path)

    of_ct = {
        "patient_name": "DOE^JANE", "patient_id": "P-1", "StudyDescription": "CT chest", "StudyDate": "20260301", "StudyTime": "101500",
        "RescaleSlope": "1", "RescaleIntercept": "-1024", "ReferringPhysicianName": "House^Gregory", "AccessionNumber": "ACC[1]",
        "StudyID": "CT-7", "RequestAttributesSequence": [request(1)],
    }  # fmt: skip
    for number in range(1, 13):
        bring(f"ct-{number}", CT, 1, number, **of_ct)
    two = [request(2), request(3)]
    for series in (1, 2):
        about = {"patient_name": "Doe^John^^Dr", "patient_id": "P-2", "modality": "MR", "StudyDate": "20260302"}
        bring(f"mr-{series}", MR, series, **about, RequestAttributesSequence=two if series == 1 else [])
    bring("mr-3", MR, 3, patient_name="Doe^John^^Dr", patient_id="P-2", modality="SR", StudyDate="20260302")
    bring("jp-1", JAPANESE, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", patient_id="P-3")
    bring("um-1", UMLAUT, patient_name="MÜLLER^JÖRG", patient_id="P-4")
    for twin in (1, 2):
        bring(f"twin-{twin}", TWINS, 1, twin, patient_name="TWIN^TOM", patient_id="P-5", sop_uid=f"{TWINS}.9")
    bring("no-number-1", NO_NUMBER, patient_name="ODD^OLE", patient_id="ODD", ExposureTime="10")
    for copy in (1, 2):
        bring(f"copy-{copy}", COPIES, patient_name="COPY^CAT", patient_id="P-6")
    pipeline.archive_all()
    return archived
