"""DICOM attributes of searches: which column of the index each is in, and their values as DICOM JSON (PS3.18 §10.6, Annex F). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

MatchKind = Literal["uid", "date", "time", "text", "person", "number", "modalities"]
QueryLevel = Literal["studies", "series", "instances"]


@dataclass(frozen=True, slots=True)
class Matched:
    """Where an attribute is in the index, and how it is matched. `column` has its table's alias: s(tudy), e (series), f(ile), r(equest)."""

    column: str
    kind: MatchKind


OF_STUDY = {
    "StudyInstanceUID": Matched("s.study_instance_uid", "uid"),
    "StudyDate": Matched("s.study_date", "date"),
    "StudyTime": Matched("s.study_time", "time"),
    "AccessionNumber": Matched("s.accession_number", "text"),
    "ModalitiesInStudy": Matched("s.modalities", "modalities"),
    "ReferringPhysicianName": Matched("s.referring_physician_name", "person"),
    "PatientName": Matched("s.patient_name", "person"),
    "PatientID": Matched("s.patient_id", "text"),
    "PatientBirthDate": Matched("s.patient_birth_date", "date"),
    "PatientSex": Matched("s.patient_sex", "text"),
    "StudyID": Matched("s.dicom_study_id", "text"),
    "StudyDescription": Matched("s.study_description", "text"),
    "InstitutionName": Matched("s.institution_name", "text"),
    "Manufacturer": Matched("s.manufacturer", "text"),
}
OF_SERIES = {
    "SeriesInstanceUID": Matched("e.series_instance_uid", "uid"),
    "Modality": Matched("e.modality", "text"),
    "SeriesNumber": Matched("e.series_number", "number"),
    "SeriesDescription": Matched("e.series_description", "text"),
    "BodyPartExamined": Matched("e.body_part", "text"),
    "PerformedProcedureStepStartDate": Matched("e.performed_date", "date"),
    "PerformedProcedureStepStartTime": Matched("e.performed_time", "time"),
}
_OF_A_REQUEST = ("ScheduledProcedureStepID", "RequestedProcedureID")
OF_A_REQUEST = {f"RequestAttributesSequence.{keyword}": Matched(f"r.value ->> '{keyword}'", "text") for keyword in _OF_A_REQUEST}
OF_INSTANCE = {
    "SOPInstanceUID": Matched("f.sop_instance_uid", "uid"),
    "SOPClassUID": Matched("f.sop_class_uid", "uid"),
    "InstanceNumber": Matched("f.instance_number", "number"),
    "Rows": Matched('f."rows"', "number"),
    "Columns": Matched('f."columns"', "number"),
    "NumberOfFrames": Matched("f.frames", "number"),
}

RETURNED: Mapping[QueryLevel, tuple[str, ...]] = {
    "studies": (
        "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy", "ReferringPhysicianName",
        "TimezoneOffsetFromUTC", "StudyDescription", "RetrieveURL", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    "series": (
        "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "RetrieveURL", "SeriesInstanceUID", "SeriesNumber",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
        "NumberOfSeriesRelatedInstances",
    ),
    "instances": (
        "SOPClassUID", "SOPInstanceUID", "InstanceAvailability", "TimezoneOffsetFromUTC", "RetrieveURL", "InstanceNumber", "Rows",
        "Columns", "BitsAllocated", "NumberOfFrames",
    ),
}  # fmt: skip
"""What every answer has at each level (tables 10.6.3-3 to 10.6.3-5), unless nothing is known of an optional one."""

OPTIONAL = frozenset({
    "TimezoneOffsetFromUTC", "StudyDescription", "SeriesDescription", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence", "ModalitiesInStudy", "Modality",
})  # fmt: skip
"""Left out if unknown; the others are then empty."""

PERSON_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_TAG = re.compile("[0-9A-Fa-f]{8}")


@lru_cache(4096)
def keyword_of(name: str) -> str | None:
    """Return the keyword of an attribute that is named by its keyword or by its tag, such as 00100020; None if it is neither.

    An attribute in a sequence has the sequence's name and a point before its own (PS3.18 §8.3.4.1).
    """
    if "." in name:
        keywords = [keyword_of(each) or "" for each in name.split(".")]
        return ".".join(keywords) if all(keywords) else None
    if _TAG.fullmatch(name):
        return keyword_for_tag(int(name, 16)) or None
    return name if tag_for_keyword(name) is not None else None


def element(keyword: str, value: Any) -> tuple[str, dict[str, Any]]:
    """Return the tag and the DICOM JSON of an attribute. `value`: text, number, item, or a list of these, as in the ledger; None: empty."""
    tag, vr = _tag_and_vr(keyword)
    values = [_value(vr, each) for each in (value if isinstance(value, list) else [value])]
    if all(each is None for each in values):
        return tag, {"vr": vr}
    return tag, {"vr": vr, "Value": values}


@cache
def _tag_and_vr(keyword: str) -> tuple[str, str]:
    tag = tag_for_keyword(keyword)
    assert tag is not None  # noqa: S101 - `keyword_of` has checked it
    return f"{tag:08X}", str(dictionary_VR(tag)).split(" ", 1)[0]


def _value(vr: str, value: Any) -> Any:
    if value is None or value == "":
        return None
    match vr:
        case "PN":
            groups = zip(PERSON_GROUPS, str(value).split("="), strict=False)
            return {name: text for name, text in groups if text} or None
        case "IS" | "DS" | "US" | "SS" | "UL" | "SL":
            return _number(value)
        case "SQ":
            return dict(element(keyword, value.get(keyword)) for keyword in _OF_A_REQUEST)
        case _:
            return str(value)


def _number(value: Any) -> Any:
    """Return a number if the text is one, else the text: an invalid value must not hide the others."""
    if isinstance(value, int):
        return value
    text = str(value).strip()
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(?:[0-9]{1,16}\.?[0-9]{0,16}|\.[0-9]{1,16})(?:[eE][+-]?[0-9]{1,2})?", text):
        return float(text)
    return text


def answer(values: Mapping[str, Any], keywords: Iterable[str]) -> dict[str, Any]:
    """Return one object of an answer: these attributes, in order of their tags, all text in UTF-8 (Annex F.2)."""
    found = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    for keyword in keywords:
        value = values.get(keyword)
        if value not in (None, "", []) or keyword not in OPTIONAL:
            tag, of = element(keyword, value)
            found[tag] = of
    return dict(sorted(found.items()))
