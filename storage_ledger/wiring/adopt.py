"""Wires `storage-ledger adopt` from the settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext, suppress

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.index.follower import Index
from storage_ledger.index.queries import followed_position
from storage_ledger.operations.adopt.adoption import Adoption, AdoptNote, AdoptPlan, AdoptReport
from storage_ledger.operations.progress import StartProgress
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.ledgers import migrated, rebuild_processes
from storage_ledger.wiring.stores import joined_mirror, reading, repair_lock_held


def adopt(
    settings: Settings,
    plan: AdoptPlan,
    *,
    on_progress: Callable[[int], None],
    on_noted: Callable[[AdoptNote, bool], None] = lambda _, __: None,
) -> AdoptReport:
    """Adopt the archive into the ledger, which is created if missing. Holds `serve.lock`, except in a dry run.

    Raises `Locked`, `LedgerUnusable`, `Retryable`.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    archive = FilesystemArchive(settings.archive_path)
    if plan.dry_run:
        with reading(settings) if settings.ledger_url or settings.ledger_file.exists() else nullcontext() as ledger:
            return Adoption(ledger, archive, plan, clock=utc_now, on_progress=on_progress, on_noted=on_noted).run()
    with repair_lock_held(settings, "adopt"):
        archive.sync_new_folders(())  # fails before a ledger is created for a missing archive
        migrated(settings)
        with reading(settings) as ledger:
            mirror = joined_mirror(settings, ledger, archive.recognise)

            def follow() -> None:
                with suppress(Retryable, LedgerBusy):  # `serve` brings the mirror up to date before it acts on these entries
                    mirror.catch_up()

            adoption = Adoption(ledger, archive, plan, clock=utc_now, on_progress=on_progress, on_committed=follow, on_noted=on_noted)
            try:
                return adoption.run()
            finally:
                follow()  # an earlier run may have been killed before this


def update_index(settings: Settings, begin: StartProgress) -> None:
    """Rebuild the index unless it is up to date, so that adopted studies can be found before `serve` starts.

    Raises `Locked` if another process rebuilds it, `LedgerError` and `Retryable`; `serve` then rebuilds it when it starts.
    """
    with reading(settings) as ledger:
        last = ledger.last()
        if last is None or followed_position(settings.index_file, ledger) == last.position:
            return
        index = Index(settings.index_file, ledger, command="adopt", processes=rebuild_processes(settings))
        with closing(index), begin("Index", last.position, "entries") as show:
            index.rebuild(show)
