"""Rewrite the mirror on the archive volume from the ledger if it is damaged or missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from storage_ledger.domain.entries import faults
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import MIRROR_DAMAGED, MIRROR_MISSING, LedgerError, LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror.reader import entries
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.operations.progress import StartProgress
from storage_ledger.operations.replay.report import ReplayCounts, ReplayPart, ReplayPlan
from storage_ledger.operations.unresolved_problems import Problem, Problems

SHOWN_EVERY = 1_000


def must_be_rewritten(mirror: Mirror, plan: ReplayPlan, say: Callable[[str], None]) -> bool:
    """Return whether to rewrite the mirror whatever its contents: because the plan requires it, or because there is no mirror.

    Raises `LedgerUnusable` for a mirror that belongs to another ledger, is ahead of this one or contradicts it, unless the
    plan is to rewrite it.
    """
    try:
        if not plan.dry_run:
            mirror.begin()
        mirror.check()
    except LedgerUnusable as error:
        if error.code == MIRROR_MISSING and ReplayPart.MIRROR in plan.parts:
            return True
        if plan.force_mirror:
            _report_set_aside(error, plan, say)
            return True
        raise
    except Retryable:
        if plan.parts & {ReplayPart.MIRROR, ReplayPart.FILES, ReplayPart.METADATA}:
            raise
    return plan.force_mirror


def rewrite(mirror: Mirror, position: int, plan: ReplayPlan, *, counts: ReplayCounts, begin: StartProgress) -> None:
    """Rewrite the whole mirror; the old one is set aside. `position`: of the ledger."""
    with begin("Mirroring", position, "entries") as show:
        counts.looked_at = counts.mended = position if plan.dry_run else mirror.rewrite(show)


def rewrite_if_damaged(
    mirror: Mirror,
    ledger: Ledger,
    archive_root: Path,
    position: int,
    plan: ReplayPlan,
    *,
    problems: Problems,
    counts: ReplayCounts,
    begin: StartProgress,
    say: Callable[[str], None],
) -> None:
    """Read the whole mirror, and rewrite it if it is damaged.

    If the ledger is damaged too, report a problem and leave the mirror unchanged: it may be the only good copy.
    """
    if not plan.dry_run:
        catch_up(mirror)  # also repairs the last segment
    damage = _damage(archive_root, ledger.ledger_id, position, counts, begin)
    if damage is None:
        return
    broken = next((each.position for each in ledger.scan(0, position) if faults(each)), None)
    if broken is None:
        _report_set_aside(damage, plan, say)
        rewrite(mirror, position, plan, counts=counts, begin=begin)
    else:
        text = f"the ledger's entry at position {broken} is also damaged: run `storage-ledger verify` to compare them"
        problems.add(Problem(damage.code, path=LEDGER_FOLDER, position=broken, detail=f"{damage.detail}; {text}"))
        counts.left = 1


def catch_up(mirror: Mirror) -> None:
    """Append the ledger's new entries to the mirror if possible; if not, `serve` will, or reports why it cannot."""
    with suppress(Retryable, LedgerError):
        mirror.catch_up()


def _damage(archive_root: Path, ledger_id: str, position: int, counts: ReplayCounts, begin: StartProgress) -> LedgerUnusable | None:
    with begin("Reading the mirror", position, "entries") as show:
        try:
            for counts.looked_at, _ in enumerate(entries(archive_root, ledger_id), 1):
                if counts.looked_at % SHOWN_EVERY == 0:
                    show(counts.looked_at)
        except LedgerUnusable as error:
            if error.code == MIRROR_DAMAGED:
                return error
            raise
    return None


def _report_set_aside(why: LedgerUnusable, plan: ReplayPlan, say: Callable[[str], None]) -> None:
    say(f"{why.code}: {why.detail}. The old mirror {'would be' if plan.dry_run else 'is'} set aside in .ledger/damaged/")
