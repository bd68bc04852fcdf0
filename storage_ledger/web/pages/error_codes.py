"""What each code means and what to do about it, from domain/error_catalogue, for pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from storage_ledger.domain.error_catalogue.catalogue import explained
from storage_ledger.domain.error_catalogue.explanation import Section, plain
from storage_ledger.domain.error_catalogue.flags_and_headers import HEADERS
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.quarantined_files import QUARANTINED_FILES
from storage_ledger.domain.error_catalogue.rejected_messages import REJECTED_MESSAGES
from storage_ledger.domain.error_catalogue.retries import RETRIES


class Meaning(NamedTuple):
    """Texts without markup. All are empty for an unknown code, which a newer program may have written."""

    means: str
    meanwhile: str
    action: str
    commands: tuple[str, ...]


UNKNOWN = Meaning("", "", "", ())


_SECTIONS: Mapping[str, tuple[Section, ...]] = {
    "quarantined": (QUARANTINED_FILES,),
    "rejected": (REJECTED_MESSAGES,),
    "failed": (RETRIES, OUTAGES),
    "archived": (HEADERS,),
}
"""Sections by kind of entry or state of upload. Entries that end something name its code too, but it does not explain them."""


def meaning(code: str | None, *sections: Section) -> Meaning:
    """Return the meaning of a code from the first of these sections that has it."""
    found = explained(code, sections)
    return Meaning(_text(found.means), _text(found.meanwhile), _text(found.action), found.commands) if found else UNKNOWN


def meaning_in(kind: str, code: str | None) -> Meaning:
    """Return the meaning of a code in an entry of this kind."""
    return meaning(code, *_SECTIONS.get(kind, ()))


def _text(text: str) -> str:
    return plain(text, backticks=False)
