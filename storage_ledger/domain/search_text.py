"""The words by which a study is found, besides those that its columns show: one text a row, which the full-text search indexes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from storage_ledger.domain.text_folding import fold, spelled

STUDY_DATE = "ᴅ"
BIRTH_DATE = "ʙ"
"""A date is a word that begins with one of these, `ᴅ20260131`: a period is searched by beginnings of words and finds no other number."""

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u3096\u3099-\u309a\u309d-\u309f\u30a1-\u30ff\u3100-\u312f"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul
)
"""Letters of scripts that put no space between words, or none within a name: each place in a run of them may begin a word."""

LONGEST_RUN = 32
_RUN = re.compile(f"[{UNSPACED}]+")
_NOT_A_LETTER = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"([12][0-9]{3})(?:([-./]?)([0-9]{2})(?:\2([0-9]{2}))?)?(?![0-9])")


class Described(NamedTuple):
    """What a study is found by. Any of it may be None, and none of it need be as DICOM says."""

    patient_name: str | None
    patient_id: str | None
    accession_number: str | None
    study_description: str | None
    study_date: str | None
    patient_birth_date: str | None


def search_text(shown: Sequence[str | None], more: Sequence[Iterable[str]] = ()) -> str | None:
    """The words of a study whose columns show `shown` (the fields of `Described`); `more`: for each, the values of all its files.

    The plain words of the first four columns are not in it: the search indexes these columns, too. The words are sorted, each once,
    so that the text does not depend on the order in which the files came.
    """
    return search_text_with(_of_one(*shown), shown, more)


def search_text_with(text: str | None, shown: Sequence[str | None], more: Sequence[Iterable[str | None]]) -> str | None:
    """The same, made from the text of the study as it was before it had files with `more`; `shown` is what it was."""
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


@lru_cache(4096)  # the files of a study come one after the other, and say the same
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
    """Without spaces and punctuation: `o'brien` → `obrien`."""
    return folded if folded.isalnum() else _NOT_A_LETTER.sub("", folded)


def _of_name(value: str) -> str:
    """A person's name (DICOM PS3.5 §6.2.1), each of its groups joined, in the orders in which people write one."""
    family, _, given = value.lower().partition("^")
    if given.isalpha() and given.isascii() and family.isalpha() and family.isascii():  # as most of them are
        return f"{family}{given} {given}{family}"
    found: list[str] = []
    for text in _ways(value):
        if text is not value and not value.isascii():
            found.append(text)
        for group in text.replace("\\", "=").split("="):
            parts = [compact(part) for part in group.split("^")[:3]]
            if not any(parts[1:]):  # not a name as DICOM has it, but perhaps one
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
    """A description or a number: the same in other letters, and what is written with a hyphen without one."""
    if value.isascii() and value.replace(" ", "").isalnum():
        return ""
    found: list[str] = []
    for text in _ways(value):
        if not value.isascii():
            found += (text, *(end for run in _RUN.findall(text) for end in (run, *_ends(run))))
        found += (compact(word) for word in text.split() if not word.isalnum())
    return " ".join(dict.fromkeys(filter(None, found)))


def _of_number(value: str) -> str:
    """An ID or accession number: as a text, and without its spaces and punctuation, in which people group it as they like."""
    text = _of_text(value)
    whole = compact(fold(value))
    return f"{text} {whole}".strip() if " " in value.strip() and whole else text


_of_description = lru_cache(4096)(_of_text)  # there are few different ones


def _ways(value: str) -> Iterable[str]:
    """As it is folded, and spelled, if that is another way."""
    return dict.fromkeys((fold(value), spelled(value)))


def _ends(text: str) -> Iterable[str]:
    """What each run of letters of scripts without spaces ends with, so that a search finds what stands within it."""
    for run in _RUN.findall(text):
        yield from (run[at : at + LONGEST_RUN] for at in range(1, len(run)))


def _of_date(kind: str, value: str) -> str:
    if len(value) == 8 and value.isascii() and value.isdigit():
        return kind + value
    found = _DIGITS.match(fold(value))  # before 1993 they came as 1990.12.31 (ACR-NEMA), and in messages there is anything
    return kind + "".join(part for part in (found[1], found[3], found[4]) if part) if found else ""


_WORDS: tuple[Callable[[str], str], ...] = (
    _of_name,
    _of_number,
    _of_number,
    _of_description,
    lambda value: _of_date(STUDY_DATE, value),
    lambda value: _of_date(BIRTH_DATE, value),
)
"""For each field of `Described`."""
