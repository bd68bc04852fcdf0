"""The last backup of a ledger, as its table `meta` notes it. Pure.

It is not an entry: each backup would then lack the entry about itself, so that restoring it onto its own ledger would lose an entry. A
ledger restored from a backup notes that backup; one restored from the mirror knows of none, until the next one is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage_ledger.domain.ids import instant

NAME = "last_backup"
"""The row's name."""


@dataclass(frozen=True, slots=True)
class LastBackup:
    """`position`: the last entry in the backup; `created`: when it was made, RFC 3339."""

    position: int
    created: str

    def stored(self) -> str:
        """Return the row's value."""
        return f"{self.created} {self.position}"

    @classmethod
    def of(cls, value: object) -> LastBackup | None:
        """Parse the row's value; None if it is not one of ours."""
        created, _, position = str(value).partition(" ")
        try:
            instant(created)
        except ValueError:
            return None
        return cls(int(position), created) if position.isascii() and position.isdigit() else None
