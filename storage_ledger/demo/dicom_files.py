"""The demo's DICOM files: pydicom's test files with made-up patients, dates and hospitals.

Images, waveforms and reports come from the test files; everything that identifies a patient is invented here.
"""

from __future__ import annotations

import hashlib
import io
import math
import uuid
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from operator import itemgetter
from pathlib import Path

import pydicom
import pydicom.data
from pydicom import config
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid


class Case(StrEnum):
    """How an upload behaves in the demo."""

    ORDINARY = "ordinary"
    SEVERAL = "several"  # one of several files of one pipeline study
    BROKEN = "broken"  # truncated: its header cannot be read
    TWICE = "twice"  # its message is delivered again after it is archived
    MISSING = "missing"  # described, but its file never arrives


@dataclass(frozen=True, slots=True)
class DemoUpload:
    """One file to send. `study_id`: the pipeline study. `dicom_study`: the Study Instance UID, None if it cannot be read."""

    study_id: str
    name: str
    data: bytes
    case: Case
    dicom_study: str | None
    patient_id: str | None
    modality: str | None

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, in lower-case hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    sex: str
    born: date


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    address: str
    prefix: str
    performing: str
    reading: str


@dataclass(frozen=True, slots=True)
class _Series:
    """One series. `source`: the test file. `slices`: number of images to create. `flipped`: mirror the image, so that it differs."""

    source: str
    description: str
    body_part: str = ""
    slices: int = 1
    flipped: bool = False


@dataclass(frozen=True, slots=True)
class _Exam:
    person: int
    place: int
    description: str
    department: str
    series: tuple[_Series, ...]
    case: Case = Case.ORDINARY


_PEOPLE = (
    _Person("Okafor^Chidinma", "F", date(1984, 3, 12)),
    _Person("Lindqvist^Erik", "M", date(1959, 7, 21)),
    _Person("Müller^Käthe", "F", date(1947, 2, 8)),
    _Person("Yamada^Tarou=山田^太郎", "M", date(1971, 11, 30)),
    _Person("Nguyen^Thi Lan", "F", date(1993, 5, 17)),
    _Person("O'Brien^Sean", "M", date(1966, 9, 2)),
    _Person("García López^María", "F", date(1978, 12, 24)),
    _Person("Kowalska^Agnieszka", "F", date(1989, 8, 5)),
    _Person("Haddad^Karim", "M", date(1955, 1, 19)),
    _Person("Dubois^Élodie", "F", date(1997, 4, 3)),
    _Person("Papadopoulos^Nikos", "M", date(1962, 6, 14)),
    _Person("Singh^Harpreet", "M", date(1974, 10, 9)),
    _Person("Johansen^Ingrid", "F", date(1951, 3, 27)),
    _Person("Rossi^Giulia", "F", date(1986, 7, 11)),
    _Person("Silva^João", "M", date(1969, 2, 22)),
    _Person("Cohen^Miriam", "F", date(1944, 5, 6)),
    _Person("Novák^Petr", "M", date(1981, 9, 28)),
    _Person("Mwangi^Grace", "F", date(1990, 1, 15)),
    _Person("Ivanova^Olga", "F", date(1957, 12, 1)),
    _Person("Schmidt^Lukas", "M", date(2001, 6, 23)),
    _Person("Tremblay^Luc", "M", date(1964, 4, 18)),
    _Person("Kim^Min-jun=金^民俊", "M", date(1995, 8, 29)),
    _Person("Taylor^Amelia", "F", date(1976, 11, 13)),
    _Person("Van den Berg^Sanne", "F", date(1983, 10, 31)),
)

_PLACES = (
    _Place("Lakeside General Hospital", "12 Shore Road, Lakeside", "LGH", "Hartmann^Julia", "Adeyemi^Tunde"),
    _Place("St. Gertrud Clinic", "Klosterweg 4, Neustadt", "SGC", "Bergmann^Paul", "Weiss^Helena"),
    _Place("Harbour Imaging Centre", "Pier 7, Port Harbour", "HIC", "Costa^Ana", "Lefevre^Marc"),
)


def _exam(person: int, place: int, description: str, department: str, *series: tuple[str, str, str], case: Case = Case.ORDINARY) -> _Exam:
    return _Exam(person, place, description, department, tuple(_Series(*each) for each in series), case)


_HEAD, _SINUS, _BONE = "693_J2KI", "J2K_pixelrep_mismatch", "JPGExtended"

_EXAMS = (
    _exam(1, 0, "CT head without contrast", "Radiology", (_HEAD, "Axial 5 mm", "HEAD")),
    _exam(4, 2, "US thyroid", "Radiology", ("examples_rgb_color", "Right lobe, Doppler", "NECK")),
    _exam(8, 1, "ECG at rest", "Cardiology", ("waveform_ecg", "12 leads", "HEART")),
    _exam(2, 1, "Whole body bone scan", "Nuclear Medicine", (_BONE, "Anterior", "WHOLEBODY")),
    _exam(11, 2, "MR heart", "Cardiology", ("MR_small_jpeg_ls_lossless", "Short axis", "HEART")),
    _exam(0, 0, "CT sinuses", "Radiology", (_SINUS, "Axial 5 mm, tilted", "HEAD")),
    _exam(13, 1, "US groin", "Radiology", ("examples_palette", "Both sides", "PELVIS"), case=Case.MISSING),
    _exam(5, 0, "Radiotherapy planning", "Radiation Oncology", ("rtplan", "Plan 1", "PELVIS"), ("rtdose", "Dose of plan 1", "PELVIS")),
    _exam(9, 0, "US lymph nodes", "Radiology", ("examples_jpeg2k", "Groin", "PELVIS")),
    _Exam(3, 0, "CT chest with contrast", "Radiology", (_Series("CT_small", "Axial 5 mm, soft tissue", "CHEST", slices=36),)),
    _exam(7, 2, "Echocardiography", "Cardiology", ("examples_ybr_color", "Four chambers, cine", "HEART"), case=Case.TWICE),
    _exam(
        6, 2, "US follow-up", "Radiology",
        ("examples_rgb_color", "Doppler", "NECK"), ("examples_palette", "Overview", "NECK"),
        ("examples_jpeg2k", "Detail", "NECK"), ("examples_ybr_color", "Cine", "HEART"), case=Case.SEVERAL,
    ),
    _exam(10, 0, "", "", ("image_dfl", "", ""), case=Case.BROKEN),
    _Exam(
        12, 1, "MR heart, function", "Cardiology",
        (_Series("MR_small", "Cine, short axis", "HEART", slices=8), _Series("MR_small", "T1 map", "HEART", slices=4, flipped=True)),
    ),
    _exam(15, 1, "CT head, follow-up", "Radiology", (_HEAD, "Axial 5 mm", "HEAD")),
    _exam(14, 0, "Whole body bone scan", "Nuclear Medicine", ("JPEG2000", "Anterior", "WHOLEBODY")),
    _Exam(
        16, 0, "MR liver", "Radiology",
        (_Series("examples_overlay", "T2 axial", "ABDOMEN", slices=6), _Series("liver_1frame", "Liver, segmented", "ABDOMEN")),
    ),
    _Exam(17, 2, "CT thoracic spine", "Radiology", (_Series("CT_small", "Axial, bone", "TSPINE", flipped=True),)),
    _exam(18, 1, "MR heart", "Cardiology", ("MR_small_RLE", "Short axis", "HEART")),
    _exam(19, 2, "US lymph nodes", "Radiology", ("examples_palette", "Groin, both sides", "PELVIS"), ("reportsi", "Report", "")),
    _exam(20, 0, "Radiotherapy planning", "Radiation Oncology", ("rtplan", "Plan A", "CHEST"), ("rtdose_rle", "Dose of plan A", "CHEST")),
    _exam(21, 2, "Echocardiography", "Cardiology", ("examples_ybr_color", "Four chambers, cine", "HEART")),
    _exam(22, 0, "CT sinuses", "Radiology", (_SINUS, "Axial 5 mm, tilted", "HEAD")),
    _exam(23, 1, "MR heart", "Cardiology", ("MR_small_jp2klossless", "Short axis", "HEART")),
    _exam(8, 1, "ECG, follow-up", "Cardiology", ("waveform_ecg", "12 leads", "HEART")),
    _exam(2, 1, "Whole body bone scan, follow-up", "Nuclear Medicine", (_BONE, "Anterior", "WHOLEBODY")),
    _Exam(12, 1, "MR abdomen", "Radiology", (_Series("examples_overlay", "T2 axial", "ABDOMEN", flipped=True),)),
    _exam(4, 2, "US thyroid, follow-up", "Radiology", ("examples_rgb_color", "Right lobe, Doppler", "NECK")),
    _exam(11, 2, "MR heart, follow-up", "Cardiology", ("MR_small_implicit", "Short axis", "HEART")),
    _exam(0, 0, "Second opinion, outside report", "Radiology", ("test-SR", "Report", "")),
    _exam(3, 0, "CT thoracic spine", "Radiology", ("CT_small", "Axial, bone", "TSPINE")),
    _exam(7, 2, "Test picture of the display", "Radiology", ("image_dfl", "Test picture", "")),
    _exam(5, 0, "MR heart", "Cardiology", ("MR_small_bigendian", "Short axis", "HEART")),
    _exam(9, 0, "US neck", "Radiology", ("examples_jpeg2k", "Both sides", "NECK")),
    _exam(15, 1, "Test picture, colours", "Radiology", ("SC_rgb_rle", "Test picture", "")),
)  # fmt: skip

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate", "PerformedProcedureStepStartDate")
_TIMES = ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime", "PerformedProcedureStepStartTime")
_WHO_IT_WAS = (
    "AcquisitionDateTime", "AdditionalPatientHistory", "EthnicGroup", "InstanceCreatorUID", "IssuerOfPatientID",
    "OperatorsName", "OtherPatientIDs", "OtherPatientNames", "PatientAddress", "PatientBirthTime", "PatientComments", "PatientSize",
    "PatientWeight", "ProtocolName", "RequestingPhysician", "TimezoneOffsetFromUTC", "ImageComments",
)  # fmt: skip
_MAKERS = {
    "CT": ("Meridian Medical", "Helix 64"), "MR": ("Meridian Medical", "Tesla 3"), "US": ("Sonora", "Echo 5"),
    "NM": ("GE Medical Systems", "MILLENNIUM MG"), "RTPLAN": ("Planwise", "TPS 4"), "RTDOSE": ("Planwise", "TPS 4"),
    "OT": ("Lumen Displays", "QA"), "SR": ("Reportage", "SR Writer"), "SEG": ("QIICR", "dcmqi"), "ECG": ("Mortara Instrument", "ELI 250"),
}  # fmt: skip


def make(today: date, between: Callable[[], None] = lambda: None) -> list[DemoUpload]:
    """Return all uploads in the order to send them, about 8 MB. `between` is called after each file.

    Study, series and instance UIDs are the same in every run. Pipeline study_ids are new each time, as from the gateway.
    """
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    uploads = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # test files are odd on purpose
        for number, exam in enumerate(_EXAMS):
            for upload in _uploads(exam, number, today):
                uploads.append(upload)
                between()
    return uploads


def _uploads(exam: _Exam, number: int, today: date) -> Iterator[DemoUpload]:
    study_id = str(uuid.uuid4())
    several = 0
    for series_number, series in enumerate(exam.series, 1):
        source = (Path(pydicom.data.__file__).parent / "test_files" / f"{series.source}.dcm").read_bytes()
        for slice_number in range(series.slices):
            dataset = pydicom.dcmread(io.BytesIO(source))
            dataset.decode()
            _sign(dataset, exam, number, today)
            _place_in_study(dataset, series, (number, series_number, slice_number))
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            data = buffer.getvalue()
            identity: tuple[str | None, str | None, str | None]
            identity = (str(dataset.StudyInstanceUID), str(dataset.PatientID), str(dataset.Modality))
            if exam.case is Case.BROKEN:
                data, identity = data[: len(data) * 2 // 3], (None, None, None)
            if exam.case is Case.SEVERAL:
                several += 1
                yield DemoUpload(study_id, f"{study_id}-{several}.dcm", data, exam.case, *identity)
            else:
                yield DemoUpload(study_id, f"{study_id}.dcm", data, exam.case, *identity)
                study_id = str(uuid.uuid4())


def _sign(dataset: FileDataset, exam: _Exam, number: int, today: date) -> None:
    """Set the patient, the hospital and the date."""
    person, place = _PEOPLE[exam.person], _PLACES[exam.place]
    day = today - timedelta(days=(number * 37) % 540 + 1)
    for keyword in _WHO_IT_WAS:
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientSex = person.name, person.sex
    dataset.PatientID = f"{place.prefix}-{104_211 + exam.person * 1_379}"
    dataset.PatientBirthDate = f"{person.born:%Y%m%d}"
    dataset.PatientAge = f"{day.year - person.born.year - ((day.month, day.day) < (person.born.month, person.born.day)):03d}Y"
    for keyword in _DATES:
        if keyword in dataset or keyword == "StudyDate":
            setattr(dataset, keyword, f"{day:%Y%m%d}")
    for keyword in _TIMES:
        if keyword in dataset or keyword == "StudyTime":
            setattr(dataset, keyword, f"{8 + number * 7 % 10:02d}{number * 13 % 60:02d}00")
    dataset.StudyDescription = exam.description
    dataset.StudyID = f"S{number + 1:04d}"
    dataset.AccessionNumber = f"{place.prefix[0]}{day:%y}{20_417 + number * 311:06d}"
    dataset.ReferringPhysicianName = ("Quist^Maren", "Farouk^Leila", "Brandt^Jonas")[number % 3]
    dataset.InstitutionName, dataset.InstitutionAddress = place.name, place.address
    dataset.InstitutionalDepartmentName = exam.department
    dataset.PerformingPhysicianName, dataset.NameOfPhysiciansReadingStudy = place.performing, place.reading
    dataset.Manufacturer, dataset.ManufacturerModelName = _MAKERS[str(dataset.Modality)]
    dataset.StationName = f"{place.prefix}-{dataset.Modality}-{exam.person % 2 + 1}"


def _place_in_study(dataset: FileDataset, series: _Series, numbers: tuple[int, int, int]) -> None:
    """Set UIDs, numbers and slice position. If the series needs it, change the pixels, which must be uncompressed."""
    exam_number, series_number, slice_number = numbers
    dataset.StudyInstanceUID = _uid("study", exam_number)
    dataset.SeriesInstanceUID = _uid("series", exam_number, series_number)
    dataset.SOPInstanceUID = _uid("instance", *numbers)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesNumber, dataset.InstanceNumber = series_number, slice_number + 1
    dataset.SeriesDescription = series.description
    if series.body_part:
        dataset.BodyPartExamined = series.body_part
    if series.slices > 1:
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        z += 5.0 * slice_number
        dataset.ImagePositionPatient = [f"{x:.3f}", f"{y:.3f}", f"{z:.3f}"]
        dataset.SliceLocation = f"{z:.3f}"
        dataset.ImagesInAcquisition = series.slices
    if series.slices > 1 or series.flipped:
        zoom = 1.0 + 0.35 * math.sin(math.pi * slice_number / series.slices)
        dataset.PixelData = _zoomed(dataset.PixelData, dataset.Rows, dataset.Columns, zoom, flipped=series.flipped)


def _zoomed(pixels: bytes, rows: int, columns: int, zoom: float, *, flipped: bool) -> bytes:
    """Magnify the middle of a 16-bit image to its full size."""
    xs = [int((column - columns / 2) / zoom + columns / 2) for column in range(columns)]
    pick = itemgetter(*(xs[::-1] if flipped else xs))
    source = memoryview(pixels)[: 2 * rows * columns].cast("H")
    picked = []
    for row in range(rows):
        start = int((row - rows / 2) / zoom + rows / 2) * columns
        picked.extend(pick(source[start : start + columns].tolist()))
    return array("H", picked).tobytes()


def _uid(*names: object) -> str:
    return str(generate_uid(entropy_srcs=["storage-ledger demo", *map(str, names)]))
