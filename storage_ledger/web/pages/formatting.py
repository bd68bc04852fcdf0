"""DICOM values as people write them: names, dates, times, ages. Pure; malformed values are returned unchanged."""

# ruff: noqa: RUF001 - confusable letters are the point
from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

MODALITIES = {
    "CR": "Computed radiography", "CT": "Computed tomography", "DX": "Digital radiography", "ECG": "Electrocardiography",
    "ES": "Endoscopy", "IO": "Intra-oral radiography", "KO": "Key objects", "MG": "Mammography", "MR": "Magnetic resonance",
    "NM": "Nuclear medicine", "OP": "Ophthalmic photography", "OPT": "Ophthalmic tomography", "OT": "Other", "PR": "Presentation state",
    "PT": "Positron emission tomography", "PX": "Panoramic X-ray", "RF": "Fluoroscopy", "RTDOSE": "Radiotherapy dose",
    "RTIMAGE": "Radiotherapy image", "RTPLAN": "Radiotherapy plan", "RTSTRUCT": "Radiotherapy structures", "SC": "Secondary capture",
    "SEG": "Segmentation", "SM": "Slide microscopy", "SR": "Structured report", "US": "Ultrasound", "XA": "X-ray angiography",
    "XC": "External-camera photography",
}  # fmt: skip
"""What the common codes of Modality (0008,0060) mean (DICOM PS3.3 §C.7.3.1.1.1)."""

SEXES = {"F": "female", "M": "male", "O": "other"}


@dataclass(frozen=True, slots=True)
class Name:
    """A person's name. `other`: the same name in another script (ideographic, phonetic), or empty."""

    text: str
    other: str = ""


def person(value: str | None) -> Name:
    """Format a person's name (DICOM PS3.5 §6.2.1): three groups separated by `=`, each of five components separated by `^`.

    `DOE^JANE` → `Doe, Jane`. Only a name written entirely in capitals is changed to mixed case.
    """
    groups = [text for group in (value or "").split("=") if (text := _group(group))]
    return Name(groups[0], " ".join(groups[1:])) if groups else Name("")


def identity(of: Mapping[str, str | None], differing: Collection[str] = ()) -> str:
    """Describe the patient of a message or file in one line, `Rossi, Giulia, SGC-122138`, followed by whatever else is `differing`."""
    name, patient_id = person(of.get("patient_name")).text, of.get("patient_id")
    texts = [name or "no name", patient_id or "no ID"]
    others = {
        "patient_birth_date": f"born {day(of.get('patient_birth_date'))}",
        "patient_sex": f"sex {of.get('patient_sex')}",
        "study_instance_uid": f"study {of.get('study_instance_uid')}",
        "series_instance_uid": f"series {of.get('series_instance_uid')}",
        "sop_instance_uid": f"instance {of.get('sop_instance_uid')}",
    }
    return ", ".join([*texts, *(text for attribute, text in others.items() if attribute in differing and of.get(attribute))])


def day(value: str | None) -> str:
    """`20260131` → `31 Jan 2026`: unambiguous whichever order the reader expects."""
    found = _date(value)
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}" if found else value or ""


def time(value: str | None) -> str:
    """`142903.25` → `14:29`."""
    found = re.fullmatch(r"([01]\d|2[0-3]):?([0-5]\d).*", value or "")
    return f"{found[1]}:{found[2]}" if found else value or ""


def patient_age(born: str | None, on: str | None) -> str:
    """Return a patient's age on a day: years, or months or days for small children; empty if unknown."""
    first, last = _date(born), _date(on)
    if first is None or last is None or last < first:
        return ""
    months = (last.year - first.year) * 12 + last.month - first.month - (last.day < first.day)
    if months >= 24:
        return f"{months // 12} y"
    return f"{months} mo" if months else f"{(last - first).days} d"


def modalities(value: str | None) -> list[tuple[str, str]]:
    """Split `CT, SR` into (code, meaning); the meaning is empty if unknown."""
    codes = [code for each in re.split(r"[,\\]", value or "") if (code := each.strip())]
    return [(code, MODALITIES.get(code, "")) for code in codes]


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


_TURKISH = re.compile("[İŞĞ]")
"""A name with one of these letters also has a dotless I."""


def _group(value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    family, given, middle, prefix, *after = (part.strip() for part in [*value.split("^"), "", "", ""])
    before = " ".join(part for part in (prefix, given, middle) if part)
    apart = ", " if value.upper() != value.lower() else " "  # 山田 太郎 has no comma
    text = apart.join(part for part in (family, before, *after) if part)
    return _small(text) if text == text.upper() else text


def _small(text: str) -> str:
    if _TURKISH.search(text):
        text = re.sub(r"\BI", "ı", text)
    return re.sub(r"[^\W\d_]+", lambda word: word[0][0] + word[0][1:].replace("İ", "i").lower(), text)


def _date(value: str | None) -> date | None:
    found = re.fullmatch(r"(\d{4})[-.]?(\d\d)[-.]?(\d\d)", value or "")
    try:
        return found and date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
