"""Folds text for search, so that different spellings of a word match. Pure.

Stored and typed text are folded alike, so `fold` may be generous: ignoring one difference too many only adds a few results.
"""

# ruff: noqa: RUF001, RUF002, RUF003 - this module is about letters that look alike
from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Letters that Unicode does not decompose, and whose names do not contain a base letter.
_LETTERS = {
    "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i", "ȷ": "j", "ŋ": "n", "ə": "e", "ǝ": "e", "ɛ": "e", "ɔ": "o", "ʒ": "z", "ĸ": "k",
    "ƿ": "w", "ȝ": "y", "ⱥ": "a", "·": "",
    "і": "и", "ү": "у", "ө": "о", "ә": "а", "һ": "х", "є": "е",
    "ى": "ي", "ی": "ي", "ے": "ي", "ک": "ك", "ة": "ه", "ہ": "ه", "ھ": "ه", "ـ": "", "ٱ": "ا",
}  # fmt: skip

_SPELLED = str.maketrans({
    "ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "đ": "dj", "ŋ": "ng", "ə": "a", "ð": "dh",
    "Ä": "ae", "Ö": "oe", "Ü": "ue", "Å": "aa", "Ø": "oe", "Đ": "dj", "Ŋ": "ng", "Ə": "a", "Ð": "dh",
})  # fmt: skip

_VOICED = "\u3099\u309a"
"""The marks that turn か into が and は into ぱ. In kana these make other letters, not accented ones, so they are kept."""

_HAS_A_BASE = re.compile("((?:LATIN|CYRILLIC) SMALL LETTER .+?) WITH ")


def fold(text: str) -> str:
    """Remove differences in spelling: case, accents, full and half width, ligatures, and letters such as ß ø ł đ ı ё.

    Katakana become hiragana, Arabic loses its vowel signs, digits of other scripts become 0 to 9. Folding twice changes nothing. The result
    is about as long as `text`.
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", "".join(map(_folded, decomposed)))


def spelled(text: str) -> str:
    """Fold, but write letters in the two-letter form that people type without a local keyboard: Müller as mueller, Ågård as aagaard."""
    if text.isascii():
        return text.lower()
    return fold(unicodedata.normalize("NFC", text).translate(_SPELLED))


@lru_cache(4096)
def _folded(letter: str) -> str:
    """Fold one letter that is casefolded and cannot be decomposed further."""
    if letter.isascii():
        return letter
    if letter in _LETTERS:
        return _LETTERS[letter]
    match unicodedata.category(letter):
        case "Mn" | "Me" | "Cf":
            return letter if letter in _VOICED else ""
        case "Nd":
            return str(unicodedata.decimal(letter))
        case "Lm" if "\u02b0" <= letter <= "\u02ff":  # apostrophes that count as letters, such as in Oʻahu
            return ""
    if "\u30a1" <= letter <= "\u30f6":
        return chr(ord(letter) - 0x60)
    if found := _HAS_A_BASE.match(unicodedata.name(letter, "")):
        return _base(letter, found[1])
    return letter


def _base(letter: str, name: str) -> str:
    try:
        return fold(unicodedata.lookup(name))
    except KeyError:
        return letter
