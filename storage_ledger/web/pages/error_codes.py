"""What each code means and what to do about it, as a page says it. The texts stand in domain/error_catalogue."""

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
    """For people, without markup. All of it is empty for a code that is not known: a newer program may have written it."""

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
"""By the kind of an entry or the state of an upload. Entries that end something name its code as well: it does not explain them."""


def meaning(code: str | None, *sections: Section) -> Meaning:
    """What a code means in the first of these sections that has it."""
    found = explained(code, sections)
    return Meaning(_text(found.means), _text(found.meanwhile), _text(found.action), found.commands) if found else UNKNOWN


def meaning_in(kind: str, code: str | None) -> Meaning:
    """What a code in an entry of this kind means."""
    return meaning(code, *_SECTIONS.get(kind, ()))


def _text(text: str) -> str:
    return plain(text, backticks=False)
