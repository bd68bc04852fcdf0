"""Settings → an adoption."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext, suppress

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.index.follower import Index
from storage_ledger.index.queries import standing
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.ledger.migrate import migrate
from storage_ledger.operations.adopt.adoption import Adoption, AdoptNote, AdoptPlan, AdoptReport
from storage_ledger.operations.progress import StartProgress
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.stores import joined_mirror, reading, serve_lock_held


def adopt(
    settings: Settings,
    plan: AdoptPlan,
    *,
    on_progress: Callable[[int], None],
    on_noted: Callable[[AdoptNote, bool], None] = lambda _, __: None,
) -> AdoptReport:
    """Take the archive into the ledger, which is made if there is none; holds `serve.lock`. A dry run changes nothing.

    Raises `Locked`, `LedgerUnusable`, `Retryable`.
    """
    logs.configure(settings.log_level, environment=settings.environment)
    archive = FilesystemArchive(settings.archive_path)
    if plan.dry_run:
        with reading(settings) if settings.ledger_file.exists() else nullcontext() as ledger:
            return Adoption(ledger, archive, plan, clock=utc_now, on_progress=on_progress, on_noted=on_noted).run()
    with serve_lock_held(settings, "adopt"):
        archive.sync_new_folders(())  # before a ledger is made for an archive that is not there
        migrate(settings.ledger_file)
        with reading(settings) as ledger:
            mirror = joined_mirror(settings, ledger, archive)

            def follow() -> None:
                with suppress(Retryable, LedgerBusy):  # `serve` brings it up before anything is done because of these entries
                    mirror.catch_up()

            adoption = Adoption(ledger, archive, plan, clock=utc_now, on_progress=on_progress, on_committed=follow, on_noted=on_noted)
            try:
                return adoption.run()
            finally:
                follow()  # an earlier run may have been killed before it did


def bring_up_index(settings: Settings, begin: StartProgress) -> None:
    """Rebuild the index, as `replay --index` does, unless it is up to date: what was adopted can then be found at once.

    Raises `Locked` where another process is at it, `LedgerError` and `Retryable` as that does; `serve` makes up for it then.
    """
    with reading(settings) as ledger:
        last = ledger.last()
        if last is None or standing(settings.index_file, ledger) == last.position:
            return
        index = Index(settings.index_file, ledger, command="adopt", processes=RebuildProcesses.of(settings.ledger_file))
        with closing(index), begin("Index", last.position, "entries") as show:
            index.rebuild(show)
