"""The query of a search → what is asked (PS3.18 §8.3.4). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from storage_ledger.web.dicomweb.attributes import OF_A_REQUEST, OF_INSTANCE, OF_SERIES, OF_STUDY, Matched, MatchKind, keyword_of

MAX_RESULTS = 5_000
"""Results of one answer; a header Warning says that there are more (§8.3.4.4)."""

MAX_OFFSET = 1 << 40
MAX_VALUE_CHARACTERS = 1024
MAX_UIDS = 5_000

_UID = re.compile(r"[0-9.]{1,64}")
_DATE = r"(?:[0-9]{8}|[0-9]{4}[.-][0-9]{2}[.-][0-9]{2})"
_DATES = re.compile(rf"({_DATE})?(-)?({_DATE})?")
_TIME = r"(?:[0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?)"
_TIMES = re.compile(rf"({_TIME})?(-)?({_TIME})?")


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute to match. `values`: any of them; a range of dates or times is its first and last, each may be empty."""

    keyword: str
    matched: Matched
    values: tuple[str, ...]
    is_range: bool = False


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a search asks for. `unsupported`: names that are not attributes or cannot be matched; they are ignored with a warning."""

    conditions: tuple[Condition, ...] = ()
    include: frozenset[str] = frozenset()
    include_all: bool = False
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0
    unsupported: tuple[str, ...] = field(default=())


def parse(pairs: Sequence[tuple[str, str]]) -> SearchRequest:
    """Parse the parameters, decoded. Raises `ValueError` with a message for the user, which repeats no value."""
    conditions: dict[str, Condition] = {}
    include: set[str] = set()
    unsupported: list[str] = []
    numbers: dict[str, int] = {}
    fuzzy = False
    for name, value in pairs:
        match name:
            case "includefield":
                include |= {word for word in re.split(r"[,\\]", value) if word}
            case "limit" | "offset":
                numbers[name] = _number(name, value, numbers)
            case "fuzzymatching":
                if value.lower() not in {"true", "false"}:
                    raise ValueError("fuzzymatching is true or false")
                fuzzy = value.lower() == "true"
            case "accept":
                pass
            case _:
                keyword = keyword_of(name)
                matched = None if keyword is None else _MATCHED.get(keyword)
                if keyword is None or matched is None:
                    unsupported.append(keyword or "a parameter that is not an attribute")
                elif keyword in conditions:
                    raise ValueError(f"{keyword} is given twice")
                elif (condition := _condition(keyword, matched, value)) is not None:
                    conditions[keyword] = condition
                else:
                    include.add(keyword)  # without a value it matches everything, and is returned (PS3.4 §C.2.2.2.3)
    return SearchRequest(
        tuple(conditions.values()),
        # An unknown one is ignored; of a sequence, all items are returned, with all that is known of them.
        frozenset(filter(None, (keyword_of(each.split(".", 1)[0]) for each in include - {"all"}))),
        "all" in include,
        fuzzy,
        numbers.get("limit"),
        numbers.get("offset", 0),
        tuple(dict.fromkeys(unsupported)),
    )


_MATCHED = OF_STUDY | OF_SERIES | OF_A_REQUEST | OF_INSTANCE


def _number(name: str, value: str, numbers: Iterable[str]) -> int:
    if name in numbers:
        raise ValueError(f"{name} is given twice")
    if not re.fullmatch("[0-9]{1,18}", value, re.ASCII) or int(value) > MAX_OFFSET:
        raise ValueError(f"{name} is not a whole number from 0")
    return int(value)


def _condition(keyword: str, matched: Matched, value: str) -> Condition | None:
    if len(value) > MAX_VALUE_CHARACTERS and matched.kind != "uid":
        raise ValueError(f"{keyword}: more than {MAX_VALUE_CHARACTERS} characters")
    if "\0" in value:
        raise ValueError(f"{keyword}: contains a NUL character")
    text = value.strip(" ")
    if not text or text == "*":
        return None
    match matched.kind:
        case "uid":
            values = tuple(dict.fromkeys(each.strip() for each in re.split(r"[,\\]", text) if each.strip()))
            if len(values) > MAX_UIDS or not all(map(_UID.fullmatch, values)):
                raise ValueError(f"{keyword}: not a UID, or a list of at most {MAX_UIDS} UIDs")
            return Condition(keyword, matched, values) if values else None
        case "date" | "time" as kind:
            return _period(keyword, matched, kind, text)
        case "number":
            if not re.fullmatch("[+-]?[0-9]{1,15}", text, re.ASCII):
                raise ValueError(f"{keyword}: not a whole number")
            return Condition(keyword, matched, (text,))
        case "modalities":
            values = tuple(each.strip() for each in re.split(r"[,\\]", text) if each.strip())
            return Condition(keyword, matched, values) if values else None
        case _:
            return Condition(keyword, matched, (text,))


def _period(keyword: str, matched: Matched, kind: MatchKind, text: str) -> Condition:
    if text == '""':
        return Condition(keyword, matched, (text,))
    found = (_DATES if kind == "date" else _TIMES).fullmatch(text)
    if found is None or not (found[1] or found[3]) or bool(found[1] and found[3]) > bool(found[2]):
        form = "YYYYMMDD" if kind == "date" else "HHMMSS.FFFFFF"
        raise ValueError(f"{keyword}: not {form}, nor a range such as {form}-{form}")
    first, last = (re.sub("[:-]" if kind == "time" else "[.-]", "", each or "") for each in (found[1], found[3]))
    return Condition(keyword, matched, (first, last), is_range=True) if found[2] else Condition(keyword, matched, (first,))
