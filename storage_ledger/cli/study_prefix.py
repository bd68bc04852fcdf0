"""A study named by the beginning of its study_id, in commands that only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from storage_ledger.domain.paths import valid_study_id

if TYPE_CHECKING:
    from storage_ledger.ledger.contract import Ledger

SHORTEST = 8
_NAMED = 5


def meant(ledger: Ledger, text: str) -> str:
    """Return the study that the user means: the one of this study_id, or the only one that begins with these 8 or more characters.

    Returns the text itself if there is none. Raises `typer.BadParameter` if there are several.
    """
    if len(text) < SHORTEST or not valid_study_id(text):
        return text
    if next(ledger.study(text), None) is not None or next(ledger.naming_study(text), None) is not None:
        return text
    found = ledger.studies_beginning(text, _NAMED + 1)
    if len(found) > 1:
        more = " …" if len(found) > _NAMED else ""
        raise typer.BadParameter(f"several studies begin with {text}: {', '.join(found[:_NAMED])}{more}")
    return found[0] if found else text
