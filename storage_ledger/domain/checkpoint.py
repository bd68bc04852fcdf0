"""Checkpoints: the text that states the size and root of the ledger's tree (c2sp.org/tlog-checkpoint v1.0.0)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from storage_ledger.domain.signed_note import decoded, encoded

CONSISTENCY_HASHES = 63
"""The most hashes of a consistency proof."""
SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
"""A size as text: no leading zero."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`origin` names the log, `size` counts its entries, `root` has 32 bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a note; further lines are ignored. Raises `ValueError` with what is wrong."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise ValueError("it has fewer than three lines")
        origin, size, root = lines[:3]
        if not origin or SIZE.fullmatch(size) is None:
            raise ValueError("its first two lines are not an origin and a size")
        found = cls(origin, int(size), decoded(root))
        if len(found.root) != 32:
            raise ValueError("its root does not have 32 bytes")
        return found

    def is_of(self, ledger_id: str) -> bool:
        """Return whether the origin names this ledger, whatever stands before the last slash."""
        return self.origin.rpartition("/")[2] == ledger_id


def origin_of(prefix: str, ledger_id: str) -> str:
    """Return the name of a ledger's log, and of its keys: CHECKPOINT_ORIGIN and the ledger_id."""
    return f"{prefix}/{ledger_id}"


def cosigned(time: int, text: str) -> bytes:
    """Return what a witness signs: the text with the time in seconds since 1970 (c2sp.org/tlog-cosignature, "Format")."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()
