"""What commands say of the service's work: facts from the ledger, put together for a person."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from storage_ledger.core.entries import Entry, Kind
from storage_ledger.core.ids import instant
from storage_ledger.core.layout import archive_path
from storage_ledger.core.plan import Stage
from storage_ledger.core.study import State, Study
from storage_ledger.errors import LedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.engine import open_engine
from storage_ledger.ledger.mirror import mirrored_position
from storage_ledger.ledger.sqlite import translated, utc_now
from storage_ledger.settings import Settings

ACTIONS = {
    "upload-missing": "put the file back into uploads and publish its message again",
    "upload-unreadable": "let the service's user read it, then publish its message again",
    "upload-is-link": "replace the link by the file itself, then publish its message again",
    "archive-copy-missing": "restore the archive's file from a backup, or put it back into uploads and publish its message again",
    "archive-copy-changed": "restore the archive's file from a backup, or put it back into uploads and publish its message again",
    "archive-name-taken": "look at what lies in the study's archive folder: something that is not ours has both names",
}
WAITING_LONG_S = 900
MIRROR_LAGS_S = 60
USUAL_ACTION = "mend the upload, then publish its message again"

OUTAGE_ACTIONS = {
    "mirror-io": "look at the archive's disk and the kernel's log; it goes on by itself",
    "mirror-moved": "see that nobody writes into ARCHIVE_PATH/.ledger, and which volume is mounted; it goes on by itself",
    "archive-full": "make room on the archive's volume; it goes on by itself",
    "archive-missing": "mount the archive's volume; it goes on by itself",
    "archive-read-only": "remount the archive writable; it goes on by itself",
    "archive-not-writable": "let the service's user write into ARCHIVE_PATH; it goes on by itself",
    "uploads-missing": "mount the uploads volume; it goes on by itself",
    "uploads-read-only": "mount uploads writable: archived files cannot be removed from it",
    "upload-not-removable": "let the service's user remove files from uploads: see docs/how-to/match-uids.md",
    "status-service-away": "start the Status Service; it goes on by itself, and tells all that it missed",
}


def status(ledger: Ledger, settings: Settings) -> dict[str, Any]:
    """One look. `attention`: what needs it, empty when all is well."""
    last = ledger.last()
    outages = _outages(ledger)
    waiting = [{"stage": q.stage.value, "rows": q.rows, "oldest": q.oldest, "next_due": q.next_due} for q in ledger.queue()]
    quarantine = list(quarantined(ledger))
    volumes = [
        _volume(name, path)
        for name, path in (
            ("uploads", settings.uploads_path),
            ("archive", settings.archive_path),
            ("ledger", settings.ledger_path),
        )
    ]
    serving = _held(settings.lock_file)
    mirrored = mirrored_position(settings.archive_path)
    attention = [
        {
            "code": code,
            "detail": f"step {step}, since {since}",
            "action": OUTAGE_ACTIONS.get(code, "see docs/reference/error-codes.md"),
        }
        for step, code, since in outages
    ]
    if quarantine:
        count = "1 file" if len(quarantine) == 1 else f"{len(quarantine)} files"
        attention.append({"code": "quarantined", "detail": count, "action": "see `storage-ledger quarantine list`"})
    attention += [
        {
            "code": f"{v['name']}-missing",
            "detail": f"{v['path']} cannot be looked at",
            "action": "is the volume mounted?",
        }
        for v in volumes
        if v["free_bytes"] is None
    ]
    attention += [
        {
            "code": "waiting-long",
            "detail": f"{q.rows} to {q.stage.value}, the oldest since {q.oldest}",
            "action": "see the log, and `storage-ledger show` of a study",
        }
        for q in ledger.queue()
        if q.stage is not Stage.CONFIRM and (utc_now() - instant(q.oldest)).total_seconds() > WAITING_LONG_S
    ]
    attention += _mirror_lag(ledger, mirrored)
    if not serving:
        attention.append({"code": "not-serving", "detail": "no `storage-ledger serve` holds serve.lock", "action": "start it"})
    return {
        "position": last.position if last else 0,
        "recorded_at": last.recorded_at if last else None,
        "ledger_id": ledger.ledger_id,
        "studies": ledger.count_studies(),
        "index_position": _index_position(settings.index_file),
        "mirror_position": mirrored,
        "serving": serving,
        "queue": waiting,
        "quarantined": len(quarantine),
        "volumes": volumes,
        "attention": attention,
    }


def study(ledger: Ledger, study_id: str) -> dict[str, Any]:
    """The story of one study, and of messages with its id that were rejected."""
    entries = ledger.study(study_id)
    folded = Study.of(study_id, entries)
    about = sorted([*entries, *(e for e in ledger.of_no_study(("rejected", "status-sent"), 20_000) if e.data.get("study_id") == study_id)],
                   key=lambda e: e.position)  # fmt: skip
    told = [entry for entry in about if entry.kind == Kind.STATUS_SENT]
    before = [None, *about][: len(about)]
    pending = ledger.pending_of(study_id)
    code = folded.quarantine_code
    return {
        "study_id": study_id,
        "state": folded.state.value if folded.uploads else ("rejected" if about else None),
        "status_sent": told[-1].data["status"] if told else None,
        "files": [
            {
                "archive_path": archive_path(study_id, f.name),
                "bytes": f.bytes,
                "sha256": f.sha256,
                "sop_instance_uid": f.sop_instance_uid,
            }
            for f in folded.files.values()
        ],
        "entries": [
            {
                "position": entry.position,
                "version": entry.version,
                "kind": entry.kind,
                "recorded_at": entry.recorded_at,
                "cause": entry.cause,
                "after_s": None if earlier is None else (instant(entry.recorded_at) - instant(earlier.recorded_at)).total_seconds(),
                "summary": _summary(entry),
            }
            for entry, earlier in zip(about, before, strict=True)
        ],
        "next": [
            {
                "stage": duty.stage.value,
                "position": duty.entry.position,
                "recorded_at": duty.entry.recorded_at,
                "not_before": duty.not_before,
                "attempts": duty.attempts,
                "summary": _NEXT[duty.stage],
            }
            for duty in pending
        ],
        "advice": f"{code}: {ACTIONS.get(code, USUAL_ACTION)}" if code else None,
    }


def quarantined(ledger: Ledger, study_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Uploads that wait for a person, oldest first."""
    for each in [study_id] if study_id is not None else ledger.studies_with_kind(Kind.QUARANTINED.value):
        entries = ledger.study(each)
        folded = Study.of(each, entries)
        by_position = {entry.position: entry for entry in entries}
        for path, upload in folded.uploads.items():
            if upload.state is State.QUARANTINED:
                entry = by_position[upload.position]
                yield {
                    "position": upload.position,
                    "recorded_at": entry.recorded_at,
                    "study_id": each,
                    "upload_path": path,
                    "code": upload.code,
                    "detail": entry.data.get("detail", ""),
                    "action": ACTIONS.get(upload.code or "", USUAL_ACTION),
                }


_NEXT = {
    Stage.PLACE: "the file is to be placed in the archive",
    Stage.REMOVE: "the upload is to be removed",
    Stage.TELL: "the Status Service is to be told",
    Stage.CONFIRM: "the status is to be read back",
}


def _summary(entry: Entry) -> str:
    data = entry.data
    match entry.kind:
        case Kind.DESCRIBED:
            return f"described: {data['upload_path']} ({data['source']})"
        case Kind.REJECTED:
            return f"rejected: {data['reason']}, {data['detail']}"
        case Kind.ARCHIVED:
            return f"archived: {data['file']['name']}, {data['file']['bytes']} bytes, {data['placement']}"
        case Kind.QUARANTINED:
            return f"quarantined: {data['code']}, {data['detail']}"
        case Kind.STATUS_SENT:
            return f"status told: {data['status']}" + (" again, it had been overwritten" if data.get("reason") == "overwritten" else "")
        case Kind.FAILED:
            return f"failed to {data['step']}: {data['code']}, attempt {data['attempt']}, next {data['retry_at']}"
        case _:
            return entry.kind


def _outages(ledger: Ledger) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str]] = set()
    for entry in ledger.of_no_study((Kind.FAILED.value, Kind.RECOVERED.value), limit=64):
        data = entry.data
        key = (data["step"], data["code"])
        if key not in seen and entry.kind == Kind.FAILED:
            found.append((*key, entry.recorded_at))
        seen.add(key)
    return found


def _volume(name: str, path: Path) -> dict[str, Any]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return {"name": name, "path": str(path), "free_bytes": None, "total_bytes": None}
    return {"name": name, "path": str(path), "free_bytes": usage.free, "total_bytes": usage.total}


def _mirror_lag(ledger: Ledger, mirrored: int | None) -> list[dict[str, str]]:
    first = next(iter(ledger.read(mirrored or 0, 1)), None)
    if first is None or (mirrored is not None and (utc_now() - instant(first.recorded_at)).total_seconds() < MIRROR_LAGS_S):
        return []
    if mirrored is None:
        text, action = "ARCHIVE_PATH holds no mirror of the ledger", "is the right volume mounted?"
    else:
        text, action = f"nothing after position {mirrored} is mirrored", "see the log; what is not mirrored is not told"
    return [{"code": "mirror-lags" if mirrored is not None else "mirror-missing", "detail": text, "action": action}]


def _held(lock_file: Path) -> bool:
    try:
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _index_position(index_file: Path) -> int | None:
    if not index_file.exists():
        return None
    engine = open_engine(index_file, writable=False, pool_size=1)
    try:
        with closing(engine.connect()) as connection, translated():
            return int(connection.exec_driver_sql("SELECT position FROM progress").scalar() or 0)
    except (LedgerError, Exception):  # noqa: BLE001 - an index that cannot be read is one that is not there
        return None
    finally:
        engine.dispose()
