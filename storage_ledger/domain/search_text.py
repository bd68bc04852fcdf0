"""Builds `search_text`: the words that find a study besides those in its columns, for the full-text index. Pure.

SQLite's tokenizer only ignores Latin accents, splits names at punctuation and takes a run of ideographs for one word. A tokenizer
of our own would have to be loaded by every program that opens index.db, so the extra words are stored instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from storage_ledger.domain.text_folding import fold, spelled

STUDY_DATE = "ᴅ"
BIRTH_DATE = "ʙ"
"""A date is a word with one of these prefixes, `ᴅ20260131`, so that a prefix search for a year or month finds no other numbers."""

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u3096\u3099-\u309a\u309d-\u309f\u30a1-\u30ff\u3100-\u312f"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul
)
"""Letters of scripts without spaces between words, or within names: a word may begin at any of them."""

LONGEST_RUN = 32
_RUN = re.compile(f"[{UNSPACED}]+")
_NOT_A_LETTER = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"([12][0-9]{3})(?:([-./]?)([0-9]{2})(?:\2([0-9]{2}))?)?(?![0-9])")


class Described(NamedTuple):
    """The fields by which a study is found. Each may be None, and none needs to be valid DICOM."""

    patient_name: str | None
    patient_id: str | None
    accession_number: str | None
    study_description: str | None
    study_date: str | None
    patient_birth_date: str | None


def search_text(shown: Sequence[str | None], more: Sequence[Iterable[str]] = ()) -> str | None:
    """Return the words for a study with the values `shown` (fields of `Described`); `more`: for each field, the values of all its files.

    The plain words of the first four fields are left out, because the search indexes those columns as well. Words are sorted and unique, so
    the text does not depend on the order in which files arrived.
    """
    return search_text_with(_of_one(*shown), shown, more)


def search_text_with(text: str | None, shown: Sequence[str | None], more: Sequence[Iterable[str | None]]) -> str | None:
    """Like `search_text`, but add the values `more` of new files to the study's previous text; `shown` is unchanged."""
    found = [
        words
        for words_of, own, values in zip(_WORDS, shown, more, strict=bool(more))
        for value in values
        if value is not None and value != own
        for words in (fold(value), words_of(value))
    ]
    return _sorted([text or "", *found]) if found else text


def _sorted(texts: Iterable[str]) -> str | None:
    return " ".join(sorted(set(" ".join(texts).split()))) or None


@lru_cache(4096)  # consecutive files belong to one study and have equal values
def _of_one(
    name: str | None,
    patient_id: str | None,
    accession_number: str | None,
    description: str | None,
    study_date: str | None,
    birth_date: str | None,
) -> str | None:
    words = (
        name and _of_name(name),
        patient_id and _of_number(patient_id),
        accession_number and _of_number(accession_number),
        description and _of_description(description),
        study_date and _of_date(STUDY_DATE, study_date),
        birth_date and _of_date(BIRTH_DATE, birth_date),
    )
    return _sorted(filter(None, words))


def compact(folded: str) -> str:
    """Remove spaces and punctuation: `o'brien` → `obrien`."""
    return folded if folded.isalnum() else _NOT_A_LETTER.sub("", folded)


def _of_name(value: str) -> str:
    """Return a person's name (DICOM PS3.5 §6.2.1) with the parts of each group joined, in all orders that people use."""
    family, _, given = value.lower().partition("^")
    if given.isalpha() and given.isascii() and family.isalpha() and family.isascii():  # the usual case
        return f"{family}{given} {given}{family}"
    found: list[str] = []
    for text in _ways(value):
        if text is not value and not value.isascii():
            found.append(text)
        for group in text.replace("\\", "=").split("="):
            parts = [compact(part) for part in group.split("^")[:3]]
            if not any(parts[1:]):  # not a DICOM name, but perhaps a name
                parts = [compact(part) for part in group.replace(",", " ").split()]
                orders = [parts, parts[1:] + parts[:1], parts[-1:] + parts[:-1]] if len(parts) > 1 else [parts]
            else:
                family, given, *middle = parts
                orders = [parts, [given, family], [given, *middle, family]]
            for joined in dict.fromkeys(map("".join, orders)):
                if joined and joined != group:
                    found.append(joined)
                if not joined.isascii():
                    found += _ends(joined)
    return " ".join(dict.fromkeys(found))


def _of_text(value: str) -> str:
    """Return a description or number in its other spellings, and hyphenated words without the hyphen."""
    if value.isascii() and value.replace(" ", "").isalnum():
        return ""
    found: list[str] = []
    for text in _ways(value):
        if not value.isascii():
            found += (text, *(end for run in _RUN.findall(text) for end in (run, *_ends(run))))
        found += (compact(word) for word in text.split() if not word.isalnum())
    return " ".join(dict.fromkeys(filter(None, found)))


def _of_number(value: str) -> str:
    """Return an ID or accession number as text, and without spaces and punctuation, since people group digits as they like."""
    text = _of_text(value)
    whole = compact(fold(value))
    return f"{text} {whole}".strip() if " " in value.strip() and whole else text


_of_description = lru_cache(4096)(_of_text)  # few distinct values


def _ways(value: str) -> Iterable[str]:
    """Return the folded and the spelled form, without duplicates."""
    return dict.fromkeys((fold(value), spelled(value)))


def _ends(text: str) -> Iterable[str]:
    """Yield every ending of each run of letters in `UNSPACED`, so that a prefix search finds words within the run."""
    for run in _RUN.findall(text):
        yield from (run[at : at + LONGEST_RUN] for at in range(1, len(run)))


def _of_date(kind: str, value: str) -> str:
    if len(value) == 8 and value.isascii() and value.isdigit():
        return kind + value
    found = _DIGITS.match(fold(value))  # before 1993 dates were 1990.12.31 (ACR-NEMA); messages may hold anything
    return kind + "".join(part for part in (found[1], found[3], found[4]) if part) if found else ""


_WORDS: tuple[Callable[[str], str], ...] = (
    _of_name,
    _of_number,
    _of_number,
    _of_description,
    lambda value: _of_date(STUDY_DATE, value),
    lambda value: _of_date(BIRTH_DATE, value),
)
"""The function for each field of `Described`."""
