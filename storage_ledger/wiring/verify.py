"""Wires `storage-ledger verify` from the settings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.payloads import VerifiedPayload
from storage_ledger.ledger.migrate import require_owner
from storage_ledger.operations.verify import unrecorded_result
from storage_ledger.operations.verify.report import VerifyProgress, VerifyReport
from storage_ledger.operations.verify.selection import VerifyOptions, VerifyPaths
from storage_ledger.operations.verify.verification import Verification
from storage_ledger.settings import Settings
from storage_ledger.system import logs
from storage_ledger.system.clock import utc_now
from storage_ledger.wiring.copy_ledger import catch_up
from storage_ledger.wiring.stores import UMASK, appending


def verify(
    settings: Settings,
    options: VerifyOptions,
    *,
    record: bool,
    stop: threading.Event,
    on_progress: Callable[[VerifyProgress], None] = lambda _: None,
) -> VerifyReport:
    """Verify ledger, mirror, archive and index, whether or not `serve` is running; with `record`, append `verified` entries.

    Ends soon after `stop` is set, with the result so far. Raises `LedgerUnusable`.
    """
    catch_up(settings)
    os.umask(UMASK)
    logs.configure("WARNING", environment=settings.environment)  # the index that is built for comparison needs no log lines
    if record:
        require_owner(settings.ledger_file)

    def append(payload: VerifiedPayload) -> int:
        with appending(settings) as ledger, ledger.write() as tx:
            return tx.append(payload.entry()).position

    report = Verification(
        VerifyPaths.of(settings),
        options,
        clock=utc_now,
        stopped=stop.is_set,
        wait=stop.wait,
        append=append if record else None,
        on_progress=on_progress,
    ).run()
    if record:
        _keep(settings, options, report)
    return report


def _keep(settings: Settings, options: VerifyOptions, report: VerifyReport) -> None:
    """Keep findings that could not be recorded, so that `status` reports them; forget them after a complete run."""
    try:
        if report.not_recorded and report.found.counts:
            unrecorded_result.keep(settings.ledger_path, report.found.counts, rfc3339(utc_now()))
        elif report.recorded and not report.not_recorded and not report.interrupted and options.study_id is None:
            unrecorded_result.forget(settings.ledger_path)
    except OSError as error:
        logs.get().warning("verify.not-kept", errno=error.errno)
