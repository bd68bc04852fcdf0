"""What `restore` has done, and what it could not restore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never


@dataclass(frozen=True, slots=True)
class MirrorContinues:
    """The mirror has further entries, up to `position`, that were not restored."""

    position: int


@dataclass(frozen=True, slots=True)
class EntryDamaged:
    """The ledger was not replaced, but its entry at `position` (the first, perhaps not the only one) does not match its hashes."""

    position: int


@dataclass(frozen=True, slots=True)
class MirrorDamaged:
    """The mirror is damaged (`detail` says where); nothing after that point was restored."""

    detail: str


NotRestored = MirrorContinues | EntryDamaged | MirrorDamaged


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result. `entries`: how many the ledger has now; `appended`: how many of them were just taken from the mirror.

    `set_aside`: where the old file is now; `not_restored`: empty if the ledger has everything that the mirror has; `key_restored`: whether
    the key that signs checkpoints was put back.
    """

    ledger_id: str
    entries: int
    appended: int
    set_aside: Path | None
    not_restored: tuple[NotRestored, ...] = ()
    key_restored: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `restore --json` prints."""
        document: dict[str, Any] = {
            "ledger_id": self.ledger_id,
            "entries": self.entries,
            "appended": self.appended,
            "set_aside": str(self.set_aside) if self.set_aside else None,
            "mirror_beyond": None,
            "damaged": None,
            "mirror_damaged": None,
            "key_restored": self.key_restored,
        }
        for each in self.not_restored:
            match each:
                case MirrorContinues(position):
                    document["mirror_beyond"] = position
                case EntryDamaged(position):
                    document["damaged"] = position
                case MirrorDamaged(detail):
                    document["mirror_damaged"] = detail
                case _:
                    assert_never(each)
        return document
