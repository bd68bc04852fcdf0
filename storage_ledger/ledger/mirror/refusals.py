"""Errors for a mirror that may not be read or appended to; each names the command that repairs it."""

from __future__ import annotations

from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import LedgerUnusable
from storage_ledger.ledger.contract import Ledger


def missing(ledger: Ledger) -> LedgerUnusable:
    """Return the error for an archive without a mirror, although the ledger has entries."""
    last = ledger.last()
    return LedgerUnusable(
        "mirror-missing",
        f"the ledger has {last.position if last else 0} entries, but ARCHIVE_PATH holds no mirror of it ({LEDGER_FOLDER}/). "
        "Check that the right archive volume is mounted. If the archive is new on purpose, run `storage-ledger replay --mirror`",
    )


def foreign(ledger: Ledger, other: str, position: int) -> LedgerUnusable:
    """Return the error for a mirror that belongs to ledger `other`."""
    return LedgerUnusable(
        "mirror-foreign",
        f"the archive's mirror belongs to ledger {other}; LEDGER_PATH holds ledger {ledger.ledger_id} with {position} entries. "
        "If the ledger's volume is new or was lost, run `storage-ledger restore --from-mirror`. "
        "Otherwise the wrong volume is mounted at ARCHIVE_PATH or LEDGER_PATH",
    )


def ahead(claimed: int, position: int) -> LedgerUnusable:
    """Return the error for a mirror that ends at `claimed`, beyond the ledger's last `position`."""
    return LedgerUnusable(
        "mirror-ahead",
        f"the archive's mirror ends at position {claimed}, the ledger at {position}: the ledger may be an old backup. "
        "`storage-ledger restore --from-mirror` adds the missing entries",
    )


def disagrees(position: int) -> LedgerUnusable:
    """Return the error for different, intact entries of ledger and mirror at this position."""
    return LedgerUnusable(
        "mirror-disagrees",
        f"ledger and mirror diverge at position {position}: one was continued from an older copy. "
        "Keep both; `storage-ledger restore --from-mirror` says how to restore the mirror's ledger beside this one",
    )


def not_whole(position: int) -> LedgerUnusable:
    """Return the error for a damaged ledger entry that the mirror does not have yet."""
    return LedgerUnusable(
        "ledger-damaged",
        f"the entry at position {position} does not match its hashes, and the mirror does not have it yet. Restore a backup: "
        "`storage-ledger restore --from-backup`. Without one, `storage-ledger replay --mirror` writes the mirror with the damaged entry",
    )
