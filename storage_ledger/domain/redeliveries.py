"""Which `described` entries share one outcome: a message may be delivered several times before its upload is placed.

A repeat is a message with the same bytes about the same upload. An outcome covers all earlier repeats, and later ones up to the next
different message about that upload: a repeat after that needs its own outcome.

    A  A  B  A        the outcome of the first A covers the second A, not the last; that of B covers B alone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple


class DescribedUpload(NamedTuple):
    """What the rule needs from a `described` entry: its position, its upload, and the SHA-256 of its message."""

    position: int
    upload_path: str
    raw_sha256: str


def repeats_of(answered: DescribedUpload, others: Iterable[DescribedUpload]) -> list[int]:
    """Return the positions of those `others` (same study, in order) that the outcome of `answered` covers too."""
    same_upload = [each for each in others if each.upload_path == answered.upload_path]
    earlier = [each for each in same_upload if each.position < answered.position and each.raw_sha256 == answered.raw_sha256]
    later = [each for each in same_upload if each.position > answered.position]
    return [each.position for each in (*earlier, *takewhile(lambda each: each.raw_sha256 == answered.raw_sha256, later))]


def with_repeats(due: Iterable[DescribedUpload], described: Mapping[str, Sequence[DescribedUpload]]) -> dict[int, list[int]]:
    """Return the positions in `due` that need an outcome of their own, in order, each with the positions of its repeats in `due`.

    `described`: all `described` entries of the study by upload path, in order. Those that are not due matter too.
    """
    waiting = {each.position: each for each in sorted(due)}
    found: dict[int, list[int]] = {}
    while waiting:
        position, each = next(iter(waiting.items()))
        del waiting[position]
        found[position] = [later for later in repeats_of(each, described[each.upload_path]) if later in waiting]
        for later in found[position]:
            del waiting[later]
    return found
