"""The report of `storage-ledger show`: what happened to a study, what comes next, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from heapq import merge
from operator import attrgetter
from typing import Any, assert_never

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.ids import instant
from storage_ledger.domain.outages import OngoingOutage, going_on
from storage_ledger.domain.paths import archive_path
from storage_ledger.domain.patient_identity import PATIENT
from storage_ledger.domain.payloads import (
    AcknowledgedPayload,
    AnyPayload,
    ArchivedPayload,
    DescribedPayload,
    DiscardedPayload,
    FailedPayload,
    HeaderReadPayload,
    KeyPayload,
    QuarantinedPayload,
    RecoveredPayload,
    RejectedPayload,
    ReleasedPayload,
    RestoredPayload,
    StatusSentPayload,
    VerifiedPayload,
    readable,
)
from storage_ledger.domain.study import Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerUnusable
from storage_ledger.index.queries import ask_files
from storage_ledger.index.rows import StudyRows
from storage_ledger.index.schema import COLUMNS
from storage_ledger.ledger.contract import Ledger, WorkItem
from storage_ledger.operations.report import remedies
from storage_ledger.operations.report.flags import flags_of, message_and_file
from storage_ledger.settings import Settings

NEXT = {
    Stage.PLACE: "place the file in the archive",
    Stage.REMOVE: "remove the upload",
    Stage.TELL: "send the status to the Status Service",
    Stage.CONFIRM: "read the status back",
}
WAITS_FOR = {
    Stage.PLACE: {"place"},
    Stage.REMOVE: {"remove", "mirror"},
    Stage.TELL: {"tell", "mirror"},
    Stage.CONFIRM: {"tell", "mirror"},
}
"""At which steps an outage holds up a work item of that stage."""
_INDEXED = ("fixity", "verified_at", "sop_conflict", "patient_differs")
"""What only the index knows about a file, because it depends on other studies or on a run of `verify`."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One entry about a study. `after_s`: seconds since the entry before it; None if there is none or either is damaged."""

    position: int
    version: int | None
    kind: str
    recorded_at: str
    cause: int | None
    after_s: float | None
    summary: str


@dataclass(frozen=True, slots=True)
class TimelineFile:
    """An archived file of the study.

    `fixity`: what `verify` last found, from the index, as are flags that depend on other studies. `message` and
    `differences`: see `flags.message_and_file`.
    """

    archive_path: str
    bytes: int
    sha256: str
    sop_instance_uid: str | list[str] | None
    fixity: str | None
    verified_at: str | None
    patient: dict[str, Any]
    flags: list[str]
    message: dict[str, Any]
    differences: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class HoldUp:
    """An outage that blocks a work item, and what to do about it."""

    code: str
    since: str
    action: str


@dataclass(frozen=True, slots=True)
class LastFailure:
    """Why the last attempt at a work item failed, and what to do about it."""

    code: str
    action: str


@dataclass(frozen=True, slots=True)
class NextStep:
    """A work item of the study: what happens next, and what blocks it. `position`: of its entry."""

    stage: str
    position: int
    recorded_at: str
    not_before: str
    attempts: int
    summary: str
    held_up_by: list[HoldUp]
    failed_with: LastFailure | None


@dataclass(frozen=True, slots=True)
class StudyTimeline:
    """The history of one study, including rejected messages with its id. `commands`: for what `advice` recommends.

    `state`: None if the study is not in the ledger.
    """

    study_id: str
    state: str | None
    status_sent: str | None
    files: list[TimelineFile]
    entries: list[TimelineEntry]
    next: list[NextStep]
    advice: str | None
    commands: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return what `show --json` prints."""
        return asdict(self)


def timeline_of(ledger: Ledger, settings: Settings, study_id: str) -> StudyTimeline:
    """Report what happened to one study, what comes next, and what to do."""
    seen = _Seen()
    # Each entry is read once and not kept: a study may have been described, or rejected, a thousand times.
    about = merge(ledger.study(study_id), filter(_is_about_a_study, ledger.naming_study(study_id)), key=attrgetter("position"))
    folded = Study.as_far_as_whole(study_id, seen.of(about))
    pending = ledger.pending_of(study_id)
    outages = going_on(ledger.open_outages()) if pending else []
    files = _files(settings, ledger, study_id, folded)
    advice, todo = _advice(folded, {each.fixity for each in files}, seen)
    return StudyTimeline(
        study_id=study_id,
        state=folded.state.value if folded.uploads else ("rejected" if seen.entries else None),
        status_sent=seen.status,
        files=files,
        entries=seen.entries,
        next=[_next(work_item, outages, seen.failed) for work_item in pending],
        advice=advice,
        commands=todo,
    )


@dataclass(slots=True)
class _Seen:
    """What was collected from the entries about a study.

    `failed`: the code of the last failure, by the position of the work item's entry; `rejected`: the code of the last rejection.
    """

    entries: list[TimelineEntry] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    status: str | None = None
    rejected: str | None = None
    damaged: bool = False

    def of(self, about: Iterable[Entry]) -> Iterator[Entry]:
        """Collect from all entries, and pass on those that belong to the study."""
        earlier = None
        for entry in about:
            self.entries.append(timeline_entry(entry, earlier))
            earlier = entry
            if faults(entry):
                self.damaged = True
            elif entry.kind in _NOTED:
                match payload := readable(entry):
                    case StatusSentPayload():
                        self.status = payload.status
                    case RejectedPayload():
                        self.rejected = payload.reason
                    case FailedPayload() if entry.cause is not None:
                        self.failed[entry.cause] = payload.code
            if entry.study_id is not None:
                yield entry


_NOTED = frozenset({Kind.STATUS_SENT, Kind.REJECTED, Kind.FAILED})


def _is_about_a_study(entry: Entry) -> bool:
    return entry.kind in {Kind.REJECTED, Kind.STATUS_SENT} and not faults(entry)


def _files(settings: Settings, ledger: Ledger, study_id: str, study: Study) -> list[TimelineFile]:
    sql = f"SELECT name, {', '.join(_INDEXED)} FROM files WHERE study_id = ?"  # noqa: S608 - names of ours
    indexed = {row[0]: dict(zip(_INDEXED, row[1:], strict=True)) for row in ask_files(settings.index_file, ledger, sql, study_id) or ()}
    rows = StudyRows.new(study_id)
    for entry in ledger.study(study_id):
        if not faults(entry):
            with suppress(KeyError, TypeError, AttributeError, ValueError, LedgerUnusable):  # as `Study.as_far_as_whole`
                rows.apply(entry)
    found = []
    for file in (each for each in study.files.values() if each.name in rows.files):
        row = dict(zip(COLUMNS["files"], rows.files[file.name], strict=True)) | indexed.get(file.name, dict.fromkeys(_INDEXED))
        found.append(
            TimelineFile(
                archive_path=archive_path(study_id, file.name),
                bytes=file.bytes,
                sha256=file.sha256,
                sop_instance_uid=file.sop_instance_uid,
                fixity=row["fixity"],
                verified_at=row["verified_at"],
                patient={name: row[name] for name in PATIENT},
                flags=flags_of(row),
                **message_and_file(row),
            )
        )
    return found


def _advice(study: Study, fixity: set[str | None], seen: _Seen) -> tuple[str | None, list[str]]:
    """Return what to do about a study, and the commands for it, for its most important problem."""
    code = study.quarantine_code
    if seen.damaged:
        return f"entry-damaged: {remedies.attention('entry-damaged')}", []
    if code:
        return f"{code}: {remedies.quarantined(code)}", remedies.commands(study.study_id, code)
    if fixity & {"missing", "changed"}:
        return remedies.DAMAGED_FILES, [remedies.put_back(study.study_id)]
    if seen.rejected and not study.uploads:
        return f"{seen.rejected}: {remedies.rejected(seen.rejected)}", []
    return None, []


def _next(work_item: WorkItem, outages: list[OngoingOutage], failed: dict[int, str]) -> NextStep:
    return NextStep(
        stage=work_item.stage.value,
        position=work_item.entry.position,
        recorded_at=work_item.entry.recorded_at,
        not_before=work_item.not_before,
        attempts=work_item.attempts,
        summary=NEXT[work_item.stage],
        held_up_by=_held_up_by(work_item.stage, outages),
        failed_with=_failed_with(failed, work_item),
    )


def _failed_with(failed: dict[int, str], work_item: WorkItem) -> LastFailure | None:
    """Return the last failure; None if the ledger has none, since not every failure has an entry."""
    code = failed.get(work_item.entry.position)
    if code is None or not work_item.attempts or work_item.stage is Stage.CONFIRM:
        return None
    return LastFailure(code, remedies.failing(code))


def timeline_entry(entry: Entry, earlier: Entry | None) -> TimelineEntry:
    """Return the entry with the time since the `earlier` one."""
    timed = earlier is not None and not faults(entry) and not faults(earlier)
    return TimelineEntry(
        position=entry.position,
        version=entry.version,
        kind=entry.kind,
        recorded_at=entry.recorded_at,
        cause=entry.cause,
        after_s=(instant(entry.recorded_at) - instant(earlier.recorded_at)).total_seconds() if timed and earlier else None,
        summary=summary(entry),
    )


def summary(entry: Entry) -> str:
    """Return one line of text about the entry."""
    if found := faults(entry):
        return f"damaged ({found[0]}): its content cannot be trusted"
    payload = readable(entry)
    return f"{entry.kind}: this version cannot read its content" if payload is None else _summary(payload)


def summary_beside_kind(entry: Entry) -> str:
    """Return the summary without the entry's kind, which the reader sees beside it, on a badge or in a column."""
    text = summary(entry)
    for kind in ("released (retry)", "status sent", "header re-read", entry.kind):
        text = text.removeprefix(kind)
    return text.removeprefix(":").strip()


def _summary(payload: AnyPayload) -> str:  # noqa: C901, PLR0912 - one line for each kind
    match payload:
        case DescribedPayload():
            return f"described: {payload.upload_path} ({payload.source})"
        case RejectedPayload():
            return f"rejected: {payload.reason}, {payload.detail}"
        case ArchivedPayload():
            return f"archived: {payload.file.name}, {payload.file.bytes} bytes, {payload.placement}"
        case QuarantinedPayload():
            return f"quarantined: {payload.code}, {payload.detail}"
        case ReleasedPayload():
            return f"released (retry) by {payload.by}: {payload.reason}"
        case DiscardedPayload():
            return f"discarded by {payload.by}: {payload.reason}"
        case RestoredPayload():
            asked = f", by {payload.by}: {payload.reason}" if payload.by else ""
            return f"restored: {payload.file.name} (was {payload.found}), from {payload.source or 'an unknown source'}{asked}"
        case AcknowledgedPayload():
            return f"acknowledged {payload.code} by {payload.by}: {payload.reason}"
        case HeaderReadPayload():
            return f"header re-read: {payload.file.name}, {payload.dicom_error or 'complete'}"
        case StatusSentPayload():
            verb = "re-sent (it had been overwritten)" if payload.reason == "overwritten" else "sent"
            return f"status {verb}: {payload.status}"
        case FailedPayload():
            then = f"next retry at {payload.retry_at}" if payload.retry_at else "still hanging"
            return f"{payload.step} failed: {payload.code}, attempt {payload.attempt}, {then}"
        case RecoveredPayload():
            return f"recovered: {payload.step} works again after {payload.code}"
        case KeyPayload():
            asked = f", by {payload.by}: {payload.reason}" if payload.by else ""
            return f"key {(payload.vkey + '+').split('+')[1]} signs checkpoints{asked}"
        case VerifiedPayload():
            counts = payload.counts
            return f"verified: {counts.intact} of {counts.files} files intact, findings: {counts.findings}, by {payload.by}"
        case _:
            assert_never(payload)


def _held_up_by(stage: Stage, outages: list[OngoingOutage]) -> list[HoldUp]:
    """Return the outages that block a work item of that stage. All stages but place also wait for the mirror."""
    return [HoldUp(each.code, each.since, remedies.outage(each.code)) for each in outages if each.step in WAITS_FOR[stage]]
