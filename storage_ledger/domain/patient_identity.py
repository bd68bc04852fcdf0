"""Patient and UIDs named by a message or a file's header, and whether two of them differ. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MAX_TEXT = 1024

PATIENT = ("patient_name", "patient_id", "patient_birth_date", "patient_sex")
UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")

# attribute ← DICOM keyword in the header. In a message those of PATIENT are in `patient_info`, those of UIDS in `study_info`.
FOUND = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
}

_IN_A_MESSAGE = (("patient_info", PATIENT), ("study_info", UIDS))

Identity = Mapping[str, str | None]
"""Attribute → text. Missing, empty and None all mean that it is not given."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An attribute that both sides give, with different values. Both values are unchanged."""

    attribute: str
    said: str
    found: str


def said_by(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity in a message's `metadata`, without keys for what it does not give."""
    found: dict[str, str] = {}
    for group, names in _IN_A_MESSAGE:  # hot: an index rebuild runs this for every message
        said = metadata.get(group)
        if said.__class__ is not dict:
            continue
        for name in names:
            value = said.get(name)
            if value is None:
                continue
            plain = value.__class__ is str and len(value) <= MAX_TEXT and "\0" not in value
            if text := value.strip() if plain else text_of(value):
                found[name] = text
    if "patient_name" in found and name_of(found["patient_name"]) is None:
        del found["patient_name"]
    return found


def found_in(header: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity in a file's header, which is keyed by DICOM keyword as in an `archived` entry."""
    return _present({name: header.get(keyword) for name, keyword in FOUND.items()})


def differences(said: Identity, found: Identity) -> list[Difference]:
    """Return where a message and a file disagree, in the order of `PATIENT` and `UIDS`; values that only one gives are ignored."""
    return [
        Difference(name, a, b)
        for name in (*PATIENT, *UIDS)
        if (a := said.get(name)) and (b := found.get(name)) and a != b and _disagree(_parts(name, a), _parts(name, b))
    ]


def disputed(patients: Iterable[Identity], among: AbstractSet[str] | None = None) -> set[str]:
    """Return the parts with more than one value. A patient with any of them (see `names_any`) differs from another one.

    `among`: only these parts count; iteration stops once all of them are disputed.
    """
    first: dict[str, str] = {}
    found: set[str] = set()
    for each in patients:
        found |= {part for part, value in _patient(each).items() if first.setdefault(part, value) != value}
        if among is not None and among <= found:
            break
    return found if among is None else found & among


def parts_of(patient: Identity) -> AbstractSet[str]:
    """Return the parts of name, ID, birth date and sex that this patient has a value for."""
    return _patient(patient).keys()


def names_any(patient: Identity, parts: AbstractSet[str]) -> bool:
    """Return whether this patient has one of the parts that `disputed` returned."""
    return bool(parts & _patient(patient).keys())


def names_a_patient(identity: Identity) -> bool:
    """Return whether it has a name or an ID; birth date and sex alone do not identify a patient."""
    return bool(identity.get("patient_name") or identity.get("patient_id"))


def text_of(value: Any) -> str | None:
    """Return a value as text without NUL, at most `MAX_TEXT` long; lists joined by backslashes (DICOM PS3.5 §6.4); None if empty."""
    if value.__class__ is str:
        if "\0" in value:
            value = value.replace("\0", "")
        return value.strip()[:MAX_TEXT] or None
    if value is None:
        return None
    if value in ([], {}):
        return None
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        value = "\\".join(str(item) for item in value)
    return text_of(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def name_of(value: str | None) -> str | None:
    """Return a patient's name; None if it consists of separators only, such as `^^^`."""
    return value if value and value.strip("^= ") else None


def _present(values: dict[str, Any]) -> dict[str, str]:
    texts = {name: text for name, value in values.items() if (text := text_of(value))}
    if name_of(texts.get("patient_name")) is None:
        texts.pop("patient_name", None)
    return texts


def _patient(identity: Identity) -> dict[str, str]:
    return {part: value for name in PATIENT if (text := identity.get(name)) for part, value in _parts(name, text).items()}


def _disagree(a: dict[str, str], b: dict[str, str]) -> bool:
    return any(a[part] != b[part] for part in a.keys() & b.keys())


@lru_cache(maxsize=4096)
def _parts(attribute: str, text: str) -> dict[str, str]:
    """Return the normalised parts of a value to compare (a name has several). The result is cached: do not modify it."""
    if attribute == "patient_name":
        return _name_parts(text)
    if attribute == "patient_birth_date" and (date := _DATE.match(text)):
        value = "".join(date.groups())
    elif attribute == "patient_sex":
        value = _SEXES.get(_folded(text), _folded(text))
    elif attribute in UIDS:
        value = text.strip("\0 ")
    else:
        value = " ".join(_folded(text).split())
    return {attribute: value} if value else {}


def _name_parts(text: str) -> dict[str, str]:
    """Split a name into the parts to compare (DICOM PS3.5 §6.2.1).

    A name has up to three groups (alphabetic, ideographic, phonetic) of family^given^middle^prefix^suffix.

    Each group is compared with the same group. If the first group has no alphabetic letters, it counts as ideographic or phonetic by its
    script. Prefixes are ignored (`DR` is often omitted); a suffix counts if both names have one (`JR` is not `SR`).
    Case, width, spaces and punctuation are ignored; accents are not.
    """
    parts: dict[str, str] = {}
    for number, group in enumerate(text.split("=")[:3]):
        components = group.split("^")
        name = _letters("".join(components[:3]))
        kind = _kind(name) if number == 0 else number
        parts.setdefault(f"patient_name.{kind}", name)
        parts.setdefault(f"patient_name.{kind}.suffix", _letters("".join(components[4:])))
    return {part: value for part, value in parts.items() if value}


def _kind(letters: str) -> int:
    """Return the group that a name in these letters belongs to: 1 for ideographs or Hangul, 2 for kana, otherwise 0."""
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}
    if scripts and scripts <= {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}:
        return 2
    return 1 if scripts & {"CJK", "HANGUL"} and not any(letter.isascii() and letter.isalpha() for letter in letters) else 0


def _letters(text: str) -> str:
    return "".join(c for c in _folded(text) if unicodedata.category(c)[0] not in "ZPC")


def _folded(text: str) -> str:
    """Fold for a caseless comparison (Unicode §3.13, D146) that ignores different encodings of the same letters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


_DATE = re.compile(r"([0-9]{4})[-./ ]?([0-9]{2})[-./ ]?([0-9]{2})(?![0-9])")
_SEXES = {"male": "m", "female": "f", "other": "o"}
