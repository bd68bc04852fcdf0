"""Which `described` entries one outcome answers: a message may be delivered several times before its upload is placed.

A repeat names the same upload with the same bytes of message. Whatever came earlier is answered by the later outcome; what comes later
only up to the first message about that upload that says something else: what follows that one is the last word again.

    A  A  B  A        the outcome of the first A answers the second one, not the last; that of B answers B alone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple


class DescribedUpload(NamedTuple):
    """What the rule asks of a `described` entry: where it is, which upload it names, and the digest of its message."""

    position: int
    upload_path: str
    raw_sha256: str


def repeats_of(answered: DescribedUpload, others: Iterable[DescribedUpload]) -> list[int]:
    """The positions of those of `others`, all of the same study and in order of position, that the outcome of `answered` answers too."""
    same_upload = [each for each in others if each.upload_path == answered.upload_path]
    earlier = [each for each in same_upload if each.position < answered.position and each.raw_sha256 == answered.raw_sha256]
    later = [each for each in same_upload if each.position > answered.position]
    return [each.position for each in (*earlier, *takewhile(lambda each: each.raw_sha256 == answered.raw_sha256, later))]


def with_repeats(due: Iterable[DescribedUpload], described: Mapping[str, Sequence[DescribedUpload]]) -> dict[int, list[int]]:
    """Those of `due` that need an outcome of their own, by position and in order, each with the positions of its repeats among `due`.

    `described`: by upload path, all that was ever described of the same study, in order. What is not due says something as well.
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
