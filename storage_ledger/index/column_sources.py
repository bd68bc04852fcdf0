"""Which value of a message or of a file's header goes into which column of `studies` and `files`."""

from __future__ import annotations

from typing import Any

from storage_ledger.index.columns import FILE, STUDY, FileColumn, StudyColumn

# index column ← (group in the message, key in the group, DICOM keyword in the header). For the patient, see `rows`.
DESCRIPTIVE = {
    "study_instance_uid": ("study_info", "study_instance_uid", "StudyInstanceUID"),
    "study_date": ("study_info", "study_date", "StudyDate"),
    "study_time": ("study_info", "study_time", "StudyTime"),
    "study_description": ("study_info", "study_description", "StudyDescription"),
    "accession_number": ("study_info", "accession_number", "AccessionNumber"),
    "modality": ("modality_info", "modality", "Modality"),
    "manufacturer": ("modality_info", "manufacturer", "Manufacturer"),
    "institution_name": ("location_info", "institution_name", "InstitutionName"),
}

FROM_HEADER = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
    "sop_class_uid": "SOPClassUID",
    "transfer_syntax_uid": "TransferSyntaxUID",
    "modality": "Modality",
    "instance_number": "InstanceNumber",
    "rows": "Rows",
    "columns": "Columns",
    "frames": "NumberOfFrames",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "accession_number": "AccessionNumber",
    "institution_name": "InstitutionName",
    "manufacturer": "Manufacturer",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "body_part": "BodyPartExamined",
    "referring_physician_name": "ReferringPhysicianName",
    "dicom_study_id": "StudyID",
    "performed_date": "PerformedProcedureStepStartDate",
    "performed_time": "PerformedProcedureStepStartTime",
    "request_attributes": "RequestAttributesSequence",
}
WHOLE_NUMBERS = frozenset({"instance_number", "rows", "columns", "frames", "series_number"})

WHOLE = 1 << 53  # every JSON reader reads integers below this exactly

# A rebuild loops over these for every entry in the ledger, so columns are looked up once, here.
FROM_MESSAGE: tuple[tuple[str, tuple[tuple[StudyColumn[str | None], str], ...]], ...] = tuple(
    (group, tuple((getattr(STUDY, column), key) for column, (of, key, _) in DESCRIPTIVE.items() if of == group))
    for group in dict.fromkeys(group for group, _, _ in DESCRIPTIVE.values())
)
STUDY_FROM_HEADER: tuple[tuple[StudyColumn[str | None], str], ...] = tuple(
    (getattr(STUDY, column), keyword) for column, (_, _, keyword) in DESCRIPTIVE.items()
)
TEXTS_FROM_HEADER: tuple[tuple[FileColumn[str | None], str], ...] = tuple(
    (getattr(FILE, column), keyword) for column, keyword in FROM_HEADER.items() if column not in WHOLE_NUMBERS
)
NUMBERS_FROM_HEADER: tuple[tuple[FileColumn[int | None], str], ...] = tuple(
    (getattr(FILE, column), keyword) for column, keyword in FROM_HEADER.items() if column in WHOLE_NUMBERS
)
FILE_FROM_STUDY: tuple[tuple[FileColumn[str | None], StudyColumn[str | None]], ...] = tuple(
    (getattr(FILE, column), getattr(STUDY, column)) for column in DESCRIPTIVE if column != "study_instance_uid"
)


def whole_number(value: Any) -> int | None:
    """Return the integer in a header's value, the first if there are several; None if it is not an integer or too large."""
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < WHOLE else None
