"""Why a mirror may not be followed or appended to: each refusal names the command that puts it right."""

from __future__ import annotations

from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Ledger


def missing(ledger: Ledger) -> LedgerUnusable:
    """The archive has no mirror, but the ledger has entries."""
    last = ledger.last()
    return LedgerUnusable(
        "mirror-missing",
        f"the ledger has {last.position if last else 0} entries, but ARCHIVE_PATH holds no mirror of it ({LEDGER_FOLDER}/). "
        "Is the archive's volume mounted, and is it the right one? If the archive is new on purpose: `storage-ledger replay --mirror`",
    )


def foreign(ledger: Ledger, other: str, position: int) -> LedgerUnusable:
    """The mirror is that of the ledger `other`."""
    return LedgerUnusable(
        "mirror-foreign",
        f"the archive's mirror is that of ledger {other}; LEDGER_PATH holds ledger {ledger.ledger_id} with {position} entries. "
        "If the ledger's volume is new or was lost: `storage-ledger restore --from-mirror`. "
        "Else the wrong volume is mounted at ARCHIVE_PATH or LEDGER_PATH",
    )


def ahead(claimed: int, position: int) -> LedgerUnusable:
    """The mirror goes up to `claimed`, the ledger only to `position`."""
    return LedgerUnusable(
        "mirror-ahead",
        f"the archive's mirror goes up to position {claimed}, the ledger only to {position}: an old backup of the ledger? "
        "`storage-ledger restore --from-mirror` takes over what it lacks",
    )


def disagrees(position: int) -> LedgerUnusable:
    """Ledger and mirror have different entries at this position, each whole."""
    return LedgerUnusable(
        "mirror-disagrees",
        f"ledger and mirror tell different things at position {position}: one of them went on from an old copy. "
        "Keep both as they are; `storage-ledger restore --from-mirror` tells how to make the mirror's ledger again beside it",
    )


def not_whole(position: int) -> LedgerUnusable:
    """The ledger's entry is damaged, and the mirror does not have it yet."""
    return LedgerUnusable(
        "ledger-damaged",
        f"the entry at position {position} is not what its hashes say, and the mirror does not have it yet. Restore a backup: "
        "`storage-ledger restore --from-backup`. Without one, `storage-ledger replay --mirror` makes a mirror of what is there",
    )
