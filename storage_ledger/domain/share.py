"""Divides the studies among worker processes: each study belongs to exactly one of them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Share:
    """Share `number` (from 0) of `of` equal shares of all studies."""

    number: int
    of: int


def belongs(study_id: bytes | None, number: int, of: int) -> bool:
    """Return whether a study, as UTF-8, belongs to a share. Work items without a study belong to share 0."""
    return number == (0 if study_id is None else int.from_bytes(sha256(study_id).digest()[:4]) % of)
