"""Which `described` entries one outcome answers: a message may be delivered several times before its upload is placed.

A repeat names the same upload with the same bytes of message. Whatever came earlier is answered by the later outcome; what comes later
only up to the first message about that upload that says something else: what follows that one is the last word again.

    A  A  B  A        the outcome of the first A answers the second one, not the last; that of B answers B alone
"""

from __future__ import annotations

from collections.abc import Iterable
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


def with_repeats(described: Iterable[DescribedUpload]) -> dict[int, list[int]]:
    """Those of one study that need an outcome of their own, by position and in order, each with the positions of its repeats."""
    of_upload: dict[str, list[DescribedUpload]] = {}
    in_order = sorted(described)
    for each in in_order:
        of_upload.setdefault(each.upload_path, []).append(each)
    found: dict[int, list[int]] = {}
    answered: set[int] = set()
    for each in in_order:
        if each.position not in answered:
            found[each.position] = [position for position in repeats_of(each, of_upload[each.upload_path]) if position > each.position]
            answered.update(found[each.position])
    return found
