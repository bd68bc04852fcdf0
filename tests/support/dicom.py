"""Make real DICOM files quickly, and the messages that the descriptor service would send about them."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

GROUPS: Mapping[str, Mapping[str, str]] = {
    "patient_info": {
        "patient_id": "PatientID", "patient_name": "PatientName", "patient_birth_date": "PatientBirthDate",
        "patient_sex": "PatientSex", "patient_age": "PatientAge",
    },
    "study_info": {
        "study_instance_uid": "StudyInstanceUID", "study_date": "StudyDate", "study_time": "StudyTime",
        "study_description": "StudyDescription", "accession_number": "AccessionNumber", "study_id": "StudyID",
    },
    "modality_info": {
        "modality": "Modality", "manufacturer": "Manufacturer", "model_name": "ManufacturerModelName",
        "station_name": "StationName",
    },
    "exposure_info": {
        "exposure_time": "ExposureTime", "exposure_mas": "Exposure", "kvp": "KVP",
        "repetition_time": "RepetitionTime", "echo_time": "EchoTime",
    },
    "location_info": {
        "institution_name": "InstitutionName", "institution_address": "InstitutionAddress",
        "department_name": "InstitutionalDepartmentName", "performing_physician": "PerformingPhysicianName",
        "reading_physician": "NameOfPhysiciansReadingStudy",
    },
}  # fmt: skip
"""The five groups of a message: the descriptor service's names and the DICOM keywords behind them."""

_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}


def make_file(
    path: str | os.PathLike[str],
    *,
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    patient_id: str = "P1",
    patient_name: str = "DOE^JANE",
    modality: str = "CT",
    rows: int = 32,
    columns: int = 32,
    seed: int = 0,
    **elements: Any,
) -> Dataset:
    """Write a valid Part 10 file with 16-bit pixels; return its data set.

    The same arguments give the same bytes; UIDs not given are derived from `seed`. `elements`: further elements by DICOM
    keyword; None omits one.
    """
    uids = {name: str(generate_uid(entropy_srcs=[name, str(seed)])) for name in ("study", "series", "instance")}
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = _CLASSES.get(modality, SecondaryCaptureImageStorage)
    ds.SOPInstanceUID = sop_uid or uids["instance"]
    ds.StudyInstanceUID = study_uid or uids["study"]
    ds.SeriesInstanceUID = series_uid or uids["series"]
    ds.PatientID, ds.PatientName = patient_id, patient_name
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyDescription = "20260101", "120000", "THORAX"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "A1", "S1", ""
    ds.Modality, ds.Manufacturer, ds.InstitutionName = modality, "ACME", "General Hospital"
    ds.SeriesNumber, ds.InstanceNumber = 1, seed + 1
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    pixels = bytearray(2 * rows * columns)
    pixels[::2] = random.Random(seed).randbytes(rows * columns)  # low bytes only: 12 bits are stored
    ds.add_new("PixelData", "OW", bytes(pixels))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, ds, enforce_file_format=True)
    return ds


def sequence(group: int, element: int, items: Sequence[bytes], *, defined: bool = False) -> bytes:
    """Return the bytes of a sequence of these items in explicit VR little endian (PS3.5 §7.5), with a length or with delimiters."""
    length = None if not defined else sum(8 + len(item) for item in items)
    head = struct.pack("<HH2sHI", group, element, b"SQ", 0, 0xFFFFFFFF if length is None else length)
    if defined:
        return head + b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    begin, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return head + b"".join(begin + item + end for item in items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def described(
    study_id: str, path: str | os.PathLike[str], ds_or_fields: Dataset | Mapping[str, Any] | None = None, **over: Any
) -> dict[str, Any]:
    """Build the `described` message of a file; all values are strings, and fields missing from the data set are omitted.

    `fields`: a data set or a mapping by DICOM keyword. `over` replaces or adds keys at the top level of the message.
    """
    if isinstance(ds_or_fields, Dataset):
        fields = {element.keyword: element.value for element in ds_or_fields if element.keyword != "PixelData"}
    else:
        fields = dict(ds_or_fields or {})
    metadata = {
        group: {name: str(fields[keyword]) for name, keyword in names.items() if keyword in fields} for group, names in GROUPS.items()
    }
    message = {
        "study_id": study_id,
        "file_path": os.fspath(path),
        "metadata": metadata,
        "validation_details": {"is_valid": True},
    }
    return {**message, **over}


def testdata_files() -> list[Path]:
    """Return the DICOM files in pydicom's wheel, with or without a suffix; nothing is downloaded."""
    return sorted(Path(name) for name in get_testdata_files() if os.path.isfile(name) and _is_dicom(name))


testdata_files.__test__ = False  # type: ignore[attr-defined] # keeps pytest from collecting it as a test


def _is_dicom(name: str) -> bool:
    with open(name, "rb") as file:
        return file.read(132)[128:] == b"DICM" or name.endswith(".dcm")
