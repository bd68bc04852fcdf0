"""The report of `storage-ledger status`: the state of every part, the work queue, and what needs attention."""

from __future__ import annotations

import ipaddress
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Kind
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.outages import by_code, going_on
from storage_ledger.domain.reason import Reason
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.index.queries import ask_files, damaged, followed_position
from storage_ledger.index.schema import FLAGGED
from storage_ledger.ledger.contract import Ledger, QueueLength
from storage_ledger.ledger.mirror.reader import mirror_position
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.operations.clock_ahead import CLOCK_AHEAD, ahead
from storage_ledger.operations.report import remedies
from storage_ledger.operations.report.quarantine import QuarantinedFile, quarantined
from storage_ledger.operations.report.service_answer import PlaceOutside, ServiceAnswer, ask
from storage_ledger.operations.report.verifications import (
    COVERAGE,
    COVERAGE_DAYS,
    VERIFIED_READ,
    Coverage,
    VerificationSummary,
    coverage,
    found_besides_files,
    last_complete,
    last_verify,
)
from storage_ledger.operations.verify import unrecorded_result
from storage_ledger.settings import Settings
from storage_ledger.system import locks
from storage_ledger.system.clock import utc_now

WAITING_LONG_S = 900
MIRROR_LAGS_S = 60
READY_WITHIN_S = 10.0
NOT_SERVING = "`storage-ledger serve` is not running (serve.lock is free)"
NO_INDEX = "index.db is missing, unreadable or not of this ledger, so damaged files are not known"


@dataclass(frozen=True, slots=True)
class NeedsAttention:
    """Something that needs attention, and what to do about it."""

    code: str
    detail: str
    action: str


@dataclass(frozen=True, slots=True)
class Volume:
    """One of the three volumes. The sizes are None if it cannot be read."""

    name: str
    path: str
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """The newest note in the archive, by its file. `size`: how many entries it covers; `written_at`: RFC 3339."""

    size: int
    written_at: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The state of every part. `attention`: empty when all is well.

    A field is None if it has no value: `recorded_at` of an empty ledger, the position of a missing index or mirror, a figure
    that needs the index or a running service, the verifications, the backup and the checkpoint before the first one.
    """

    position: int
    recorded_at: str | None
    ledger_id: str
    studies: int
    index_position: int | None
    mirror_position: int | None
    serving: bool
    queue: list[QueueLength]
    quarantined: int
    flagged: int | None
    headers_unreadable: int | None
    unexplained: int | None
    last_verify: VerificationSummary | None
    last_complete_verify: VerificationSummary | None
    coverage: Coverage | None
    last_backup: LastBackup | None
    last_checkpoint: LastCheckpoint | None
    outside: list[PlaceOutside]
    volumes: list[Volume]
    attention: list[NeedsAttention]

    def to_json(self) -> dict[str, Any]:
        """Return what `status --json` prints."""
        return asdict(self)


def current_status(ledger: Ledger, settings: Settings) -> StatusReport:
    """Report the current state of ledger, index, mirror, volumes and the running service."""
    last = ledger.last()
    queue = ledger.queue()
    quarantine = quarantined(ledger, settings)
    volumes = [
        _volume(name, path)
        for name, path in (
            ("uploads", settings.uploads_path),
            ("archive", settings.archive_path),
            ("ledger", settings.ledger_path),
        )
    ]
    serving = locks.is_held(settings.lock_file)
    mirror_at = mirror_position(settings.archive_path)
    followed = followed_position(settings.index_file, ledger)
    outages = [
        Reason(cause.code, f"step {' and '.join(cause.steps)}, since {cause.since}") for cause in by_code(going_on(ledger.open_outages()))
    ]
    noticed = [
        *_in_quarantine(quarantine),
        *_clock(ledger),
        *_damaged_entries(ledger, settings),
        *_missing_volumes(volumes, outages),
        *_waiting_long(queue),
        *(_mirror_lag(ledger, mirror_at) if volumes[1].free_bytes is not None else []),  # otherwise the missing volume is reported instead
        *([Reason("index-missing", NO_INDEX)] if followed is None and last is not None else []),
        *_damage(ledger, settings),
    ]
    answer = _ask_service(settings) if serving else ServiceAnswer([Reason("not-serving", NOT_SERVING)], None, {})
    return StatusReport(
        position=last.position if last else 0,
        recorded_at=last.recorded_at if last else None,
        ledger_id=ledger.ledger_id,
        studies=_studies(ledger, settings),
        index_position=followed,
        mirror_position=mirror_at,
        serving=serving,
        queue=queue,
        quarantined=len(quarantine),
        flagged=_flagged(ledger, settings),
        headers_unreadable=_headers_unreadable(ledger, settings),
        unexplained=answer.unexplained,
        last_verify=last_verify(ledger),
        last_complete_verify=last_complete(ledger.of_no_study((Kind.VERIFIED.value,), VERIFIED_READ)),
        coverage=coverage(ask_files(settings.index_file, ledger, COVERAGE, later(rfc3339(utc_now()), -COVERAGE_DAYS * 86_400))),
        last_backup=ledger.last_backup(),
        last_checkpoint=_last_checkpoint(settings),
        outside=list(answer.outside),
        volumes=volumes,
        attention=_attention(outages, noticed, answer.not_ready),
    )


def _attention(outages: list[Reason], noticed: list[Reason], not_ready: list[Reason]) -> list[NeedsAttention]:
    """Add to each reason what to do about it. A reason from /readyz is left out if another reason has the same code."""
    known = {each.code for each in (*outages, *noticed)}
    not_ready = [each for each in not_ready if each.code not in known]
    return [
        NeedsAttention(reason.code, reason.detail, action(reason.code))
        for reasons, action in ((outages, remedies.outage), (noticed, remedies.attention), (not_ready, remedies.not_ready))
        for reason in reasons
    ]


def _in_quarantine(quarantine: list[QuarantinedFile]) -> list[Reason]:
    count = "1 file" if len(quarantine) == 1 else f"{len(quarantine)} files"
    return [Reason("quarantined", count)] if quarantine else []


def _clock(ledger: Ledger) -> list[Reason]:
    found = ahead(ledger, utc_now())
    return [] if found is None else [Reason(CLOCK_AHEAD, found.detail)]


def _damaged_entries(ledger: Ledger, settings: Settings) -> list[Reason]:
    return [
        Reason("entry-damaged", f"first at position {position}: {fault}") for position, fault in damaged(settings.index_file, ledger, 1)
    ]


def _missing_volumes(volumes: list[Volume], outages: list[Reason]) -> list[Reason]:
    known = {each.code for each in outages}
    found = [Reason(f"{each.name}-missing", f"{each.path} cannot be read") for each in volumes if each.free_bytes is None]
    return [each for each in found if each.code not in known]


def _waiting_long(queue: list[QueueLength]) -> list[Reason]:
    return [
        Reason("waiting-long", f"stage {q.stage.value}: {q.rows} waiting, the oldest since {q.oldest}")
        for q in queue
        if q.stage is not Stage.CONFIRM and waits_long(q.oldest, utc_now())
    ]


def waits_long(oldest: str, now: datetime) -> bool:
    """Return whether a work item of this age needs attention."""
    return (now - instant(oldest)).total_seconds() > WAITING_LONG_S


def _damage(ledger: Ledger, settings: Settings) -> list[Reason]:
    where = "FROM files INDEXED BY files_damaged WHERE fixity IN ('missing', 'changed')"  # otherwise SQLite uses a larger index
    sql = f"SELECT archive_path, fixity, (SELECT count(*) {where}) {where} ORDER BY position LIMIT 1"
    rows = ask_files(settings.index_file, ledger, sql)
    found = []
    if rows:
        path, fixity, number = rows[0]
        count = "1 archived file was" if number == 1 else f"{number} archived files were"
        text = f"{count} missing or changed when last read; {'' if number == 1 else 'first: '}{path}, {fixity}"
        found.append(Reason("damaged-files", text))
    others = found_besides_files(ledger.of_no_study((Kind.VERIFIED.value,), VERIFIED_READ))
    if others:
        codes = _numbers(Counter(each.code for each in others))
        text = f"{codes}; the latest at {others[0].recorded_at}"
        found.append(Reason("verify-findings", text))
    if (later := unrecorded_result.kept(settings.ledger_path)) is not None:
        text = f"{_numbers(later.counts)}, at {later.at}; not recorded in the ledger, because ledger or mirror is damaged"
        found.append(Reason("verify-findings", text))
    return found


def _numbers(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in counts.most_common())


def _mirror_lag(ledger: Ledger, mirror_at: int | None) -> list[Reason]:
    first = next(iter(ledger.read(mirror_at or 0, 1)), None)
    if first is None or (mirror_at is not None and (utc_now() - instant(first.recorded_at)).total_seconds() < MIRROR_LAGS_S):
        return []
    if mirror_at is None:
        return [Reason("mirror-missing", "ARCHIVE_PATH has no mirror of the ledger")]
    return [Reason("mirror-lags", f"the mirror ends at position {mirror_at}")]


def _flagged(ledger: Ledger, settings: Settings) -> int | None:
    """Return the number of flagged files; None without an index. Flags are permanent, so they are not listed under attention."""
    rows = ask_files(settings.index_file, ledger, f"SELECT count(*) FROM files WHERE {FLAGGED}")  # noqa: S608 - names of ours
    return int(rows[0][0]) if rows else None


def _headers_unreadable(ledger: Ledger, settings: Settings) -> int | None:
    """Return the number of archived files whose header is incomplete or names no study; None without an index."""
    sql = "SELECT count(*) FROM files INDEXED BY files_unread WHERE dicom_error IS NOT NULL"
    rows = ask_files(settings.index_file, ledger, sql)
    return int(rows[0][0]) if rows else None


def _studies(ledger: Ledger, settings: Settings) -> int:
    """Return the number of studies: those of the index, if it lacks no entry, and those that came later."""
    sql = "SELECT position, (SELECT count(*) FROM studies) FROM progress WHERE NOT EXISTS (SELECT 1 FROM damaged)"
    rows = ask_files(settings.index_file, ledger, sql)
    position, studies = rows[0] if rows else (0, 0)
    return int(studies) + ledger.count_studies(after=position)


def _last_checkpoint(settings: Settings) -> LastCheckpoint | None:
    try:
        found = CheckpointFolder(settings.archive_path).newest()
    except Retryable:
        return None  # the volume is reported
    return None if found is None else LastCheckpoint(found.size, rfc3339(datetime.fromtimestamp(found.written_at, UTC)))


def _volume(name: str, path: Path) -> Volume:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return Volume(name, str(path), None, None)
    return Volume(name, str(path), usage.free, usage.total)


def _ask_service(settings: Settings) -> ServiceAnswer:
    """Ask `serve` for what only it knows: whether it is connected to Redis, say, and the result of its last reconciliation pass."""
    if settings.http_port == 0:
        return ServiceAnswer([], None, {})  # it listens on a random free port that we do not know
    host = "127.0.0.1" if _is_any(settings.http_host) else settings.http_host
    where = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}"
    answer = ask(where, READY_WITHIN_S)
    if answer is None:
        text = f"`serve` holds serve.lock but gave no valid answer at {where} within {READY_WITHIN_S:.0f} s"
        return ServiceAnswer([Reason("not-answering", text)], None, {})
    return answer


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
