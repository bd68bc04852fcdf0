"""The text of a search → its terms, each with its full-text query. Pure.

A search has no syntax: whatever is typed finds something or nothing.
"""

# ruff: noqa: RUF001 - confusable letters are the point
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from storage_ledger.domain.search_text import BIRTH_DATE, STUDY_DATE, compact
from storage_ledger.domain.text_folding import fold, spelled

NOTHING = '""'
"""An FTS5 expression that matches no row."""

LONGEST = 500
MOST_JOINED = 4
"""Maximum number of words that are also searched for as one word: `van den berg` finds VANDENBERG."""

_MONTHS = (
    ("january", "januar"), ("february", "februar"), ("march", "marz", "maerz", "mrz"), ("april",), ("may", "mai"), ("june", "juni"),
    ("july", "juli"), ("august",), ("september",), ("october", "oktober"), ("november",), ("december", "dezember"),
)  # fmt: skip
"""Month names in English and German, folded; the first three letters are enough."""

_FORMS = tuple(
    re.compile(form.replace("YEAR", "(?P<y>[12][0-9]{3})").replace("MONTH", r"(?P<n>[^\W\d_]{3,9})\.?"), re.IGNORECASE)
    for form in (
        r"YEAR(?:(?P<m>[0-9]{2})(?P<d>[0-9]{2})?)?",
        r"YEAR([-./])(?P<m>[0-9]{1,2})(?:\2(?P<d>[0-9]{1,2}))?",
        r"(?P<d>[0-9]{1,2})([-./]) ?(?P<m>[0-9]{1,2})\2 ?YEAR",
        r"(?P<m>[0-9]{1,2})[-./]YEAR",
        r"(?:(?P<d>[0-9]{1,2})(?:st|nd|rd|th|\.)?[ -]?)?MONTH,?[ -]?YEAR",
        r"MONTH (?P<d>[0-9]{1,2})(?:st|nd|rd|th)?,? YEAR",
        r"YEAR[ -]MONTH(?:[ -](?P<d>[0-9]{1,2}))?",
        r"YEAR ?年(?: ?(?P<m>[0-9]{1,2}) ?月(?: ?(?P<d>[0-9]{1,2}) ?日)?)?",
    )
)
"""Ways to write a day, month or year. In numeric dates the day comes before the month."""

_BETWEEN = re.compile(r" ?(?:\.{2,}|[–—~]|/) ?| - | (?:to|and|until|till|bis|und) |-", re.IGNORECASE)
_OPEN = re.compile(
    r"(?P<until>(?:\.{2,}|[–—]) ?|(?:until|till|bis) )?(?P<since>(?:since|from|seit|ab) )?(?P<date>.+?)(?P<on> ?(?:\.{2,}|[–—]))?",
    re.IGNORECASE,
)
_BEGINS_A_PERIOD = re.compile("(?:from|between|von|zwischen) ", re.IGNORECASE)
_MOST_WORDS = 8
"""Words around a period: `from 3 Jun 2026 to 5 Jun 2026`."""

_BETWEEN_WORDS = re.compile(r"[\s^=,;\\]+")


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the search text. `match`: its FTS5 expression. A study must match all terms."""

    text: str
    match: str
    is_word: bool = True
    """Neither a date nor a period."""


def terms(text: object) -> list[Term]:
    """Split the search text into terms, in order. Parts without a letter or digit are dropped."""
    words = re.sub('[\0"]', " ", unicodedata.normalize("NFKC", str(text or "")[:LONGEST])).split()
    found: list[Term] = []
    while words:
        length, term = _dates_at_the_beginning(words)
        if term is not None:
            found.append(term)
        else:
            found += filter(None, map(_term, _BETWEEN_WORDS.split(words[0])))
        words = words[length:]
    return list(dict.fromkeys(found))


def all_of(some: Sequence[Term]) -> str:
    """Return an FTS5 expression for rows that match all terms."""
    if not some:
        return NOTHING
    every = " AND ".join(term.match for term in some)
    texts = [term.text for term in some]
    if not 1 < len(some) <= MOST_JOINED or not all(term.is_word for term in some):
        return every
    if any(re.search(r"\d", text) for text in texts):  # a grouped number is joined as a whole, or not at all
        ways = [_of_word("".join(texts))]
    else:
        ways = [" AND ".join(map(_of_word, way)) for way in _joined(texts)]
    return " OR ".join(f"({way})" for way in (every, *ways))


def expression(text: object) -> str:
    """Return an FTS5 expression for rows that have, for each word of `text`, a word beginning with it. Everything is quoted."""
    return all_of(terms(text))


def names_person(name: str | None, text: str) -> bool:
    """Return whether each word of `text` begins a word of this person's name, in any spelling and order."""
    known = {compact(word) for form in (fold(name or ""), spelled(name or "")) for word in re.split(r"[\s^=,\\-]+", form)}
    return all(
        any(
            word.startswith(way) or (not way.isascii() and way in word)
            for word in known
            for way in {compact(fold(each)), compact(spelled(each))}
        )
        for each in _BETWEEN_WORDS.split(text)
        if compact(fold(each))
    )


def period(text: str) -> tuple[str, str] | None:
    """Return the first and last day of a date or period, as `20260601` and `20260699`, or None if it is neither."""
    if day := _day(text):
        return day
    for between in _BETWEEN.finditer(text):
        first, last = _day(_BEGINS_A_PERIOD.sub("", text[: between.start()], count=1)), _day(text[between.end() :])
        if first and last:
            return (first[0], last[1]) if first <= last else (last[0], first[1])
    found = _OPEN.fullmatch(text)
    if found and (found["until"] or found["since"] or found["on"]) and (day := _day(found["date"])):
        return ("0" * 8, day[1]) if found["until"] else (day[0], "9" * 8)
    return None


def _day(text: str) -> tuple[str, str] | None:
    for form in _FORMS:
        if (found := form.fullmatch(text)) is None:
            continue
        parts = found.groupdict()
        month = _month(parts["n"]) if parts.get("n") else int(parts.get("m") or 0)
        day = int(parts.get("d") or 0)
        if month is None or (month == 0 and parts.get("m")) or (day == 0 and parts.get("d")):
            continue
        try:
            date(int(parts["y"]), month or 1, day or 1)
        except ValueError:
            continue
        written = parts["y"] + (f"{month:02}" if month else "") + (f"{day:02}" if day else "")
        return written.ljust(8, "0"), written.ljust(8, "9")
    return None


def _month(name: str) -> int | None:
    folded = fold(name)
    return next((number for number, names in enumerate(_MONTHS, 1) if any(each.startswith(folded) for each in names)), None)


def _dates_at_the_beginning(words: Sequence[str]) -> tuple[int, Term | None]:
    """Return the length in words of the longest date or period at the start of these words, and its term."""
    for length in range(min(_MOST_WORDS, len(words)), 0, -1):
        if term := _of_dates(" ".join(words[:length]).strip(",;")):
            return length, term
    return 1, None


def _of_dates(text: str) -> Term | None:
    """Return a term for a date or period, or for an identifier that looks like one."""
    if (found := period(text)) is None:
        return None
    first, last = found
    matches = [f'"{STUDY_DATE}{prefix}"*' for prefix in _prefixes(first, last)]
    if first == last:
        matches.append(f'"{BIRTH_DATE}{first}"*')
    if " " not in text:
        matches.append(_of_word(text))
    elif _day(text):
        matches.append(f"({' AND '.join(_of_word(word) for word in text.split() if compact(word))})")
    return Term(text, _any(matches), is_word=False)


def _prefixes(first: str, last: str, begin: str = "") -> Iterator[str]:
    """Return the prefixes shared by exactly the numbers from `first` to `last`, which have equally many digits."""
    if not first.strip("0") and not last.strip("9"):
        yield begin
        return
    low, high = int(first[0]), int(last[0])
    if low == high:
        yield from _prefixes(first[1:], last[1:], begin + first[0])
        return
    rest = len(first) - 1
    yield from _prefixes(first[1:], "9" * rest, f"{begin}{low}")
    yield from (f"{begin}{digit}" for digit in range(low + 1, high))
    yield from _prefixes("0" * rest, last[1:], f"{begin}{high}")


def _term(word: str) -> Term | None:
    return (_of_dates(word) or Term(word, _of_word(word))) if compact(fold(word)) else None


def _of_word(word: str) -> str:
    """Return an FTS5 expression for words that begin with this one, in any spelling. Quoted, so that nothing is syntax."""
    folded, other = fold(word), spelled(word)
    ways = (folded, other, compact(folded), compact(other), "" if word.isascii() else word)
    return _any(f'"{way}"*' for way in ways if compact(way))


def _joined(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield each way to join some of the words with their neighbours."""
    for cuts in range(2 ** (len(words) - 1) - 1):  # one bit per gap that stays; the case where all stay is left out
        way = [words[0]]
        for gap, word in enumerate(words[1:]):
            if cuts >> gap & 1:
                way.append(word)
            else:
                way[-1] += word
        yield way


def _any(matches: Iterable[str]) -> str:
    different = list(dict.fromkeys(matches))
    return different[0] if len(different) == 1 else f"({' OR '.join(different)})"
