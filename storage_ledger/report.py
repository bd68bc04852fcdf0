"""What commands say of the service's work: facts from the ledger, put together for a person."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from storage_ledger.core.entries import Entry, Kind, faults
from storage_ledger.core.ids import instant
from storage_ledger.core.layout import archive_path
from storage_ledger.core.plan import Stage
from storage_ledger.core.study import State, Study
from storage_ledger.index.fixity import FIXITY
from storage_ledger.index.sqlite import archived_from, ask_files, damaged, standing, studies_with_upload
from storage_ledger.ledger import lock
from storage_ledger.ledger.contract import Duty, Ledger
from storage_ledger.ledger.mirror import mirrored_position
from storage_ledger.ledger.sqlite import utc_now
from storage_ledger.quarantine import BY, REASON, Waiting, in_quarantine
from storage_ledger.settings import Settings
from storage_ledger.verify import unrecorded

_RETRY = "then `storage-ledger quarantine retry`"
_DISCARD = "then `storage-ledger quarantine discard` this one"
ACTIONS = {
    "upload-missing": f"put the file back into uploads, {_RETRY}",
    "upload-unreadable": f"let the service's user read it, {_RETRY}",
    "upload-is-link": f"replace the link by the file itself, {_RETRY}",
    "upload-is-folder": f"publish a message for each file in it, {_DISCARD}",
    "upload-name-too-long": f"correct the sender and have the message published again, {_DISCARD}",
    "archive-copy-missing": f"restore the archive's file from a backup, or put it back into uploads, {_RETRY}",
    "archive-copy-changed": f"restore the archive's file from a backup, or put it back into uploads, {_RETRY}",
    "archive-name-taken": f"move what is not ours out of the study's archive folder: it has both names of this file, {_RETRY}",
}
TWICE_NAMED = (
    f"if both messages were about one file, nothing is lost: `storage-ledger quarantine discard` this one. Else {ACTIONS['upload-missing']}"
)
"""For `upload-missing` where a file of the same path was archived for another study."""
ENTRY_DAMAGED = (
    "look at the ledger's disk, stop `serve`, then `storage-ledger restore --from-mirror --force`, which keeps this one beside it: see "
    "docs/how-to/ledger-volume-lost.md"
)
WAITING_LONG_S = 900
VERIFIED_READ = 1000
"""Entries `verified` at most, the newest."""
MIRROR_LAGS_S = 60
READY_WITHIN_S = 10.0
UNEXPLAINED = "storage_ledger_unexplained_files"
DAMAGED_FILES = (
    "a file of it is missing or changed in the archive: see whether the disk fails, stop `serve`, and put it back from a folder with copies"
)
REJECTED_ACTION = (
    "nothing was archived: the sender has to publish a right message; each reason is explained in docs/reference/error-codes.md"
)
VERIFY_AGAIN = "run `storage-ledger verify` again; see docs/how-to/verify.md"
NO_INDEX = "index.db is not there, or cannot be read: which files are damaged is not known"
INDEX_ACTION = "`serve` makes it by itself; if that lasts, `storage-ledger replay --index`"
_SEE = "see docs/reference/error-codes.md"
USUAL_ACTION = f"mend the upload, {_RETRY}"

OUTAGE_ACTIONS = {
    "entry-damaged": ENTRY_DAMAGED,
    "archive-io": "look at the archive's disk and the kernel's log; what failed is tried again by itself",
    "archive-error": "see errno in the entry `failed`; what failed is tried again by itself",
    "upload-io": "look at the disk of uploads and the kernel's log; what failed is tried again by itself",
    "internal-error": "report it with the lines `place.internal-error` of the log; the files are safe in uploads",
    "ledger-io": "see rights and owner of LEDGER_PATH, then its disk; it goes on by itself",
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
NOT_READY_ACTIONS = OUTAGE_ACTIONS | {
    "hangs": "see whether the volume answers, and the kernel's log; what hangs goes on by itself when it does",
    "ledger-full": "make room on the ledger's volume; it goes on by itself",
    "redis-not-subscribed": "see that Redis runs at REDIS_URL; it subscribes by itself, and looks through uploads for what it missed",
}
FAILING_ACTIONS = OUTAGE_ACTIONS | {
    "archive-not-writable": "see owner and mode of the study's folder in the archive: somebody else has made it",
    "hangs": NOT_READY_ACTIONS["hangs"],
    "status-refused": "see the Status Service's log for this study_id, and whether STATUS_SERVICE_URL is the right service",
    "upload-unreadable": "let the service's user read it: see docs/how-to/match-uids.md",
}
"""Of one study alone; all of them are tried again by themselves."""


def status(ledger: Ledger, settings: Settings) -> dict[str, Any]:
    """One look. `attention`: what needs it, empty when all is well."""
    last = ledger.last()
    outages = _outages(ledger)
    waiting = [{"stage": q.stage.value, "rows": q.rows, "oldest": q.oldest, "next_due": q.next_due} for q in ledger.queue()]
    quarantine = quarantined(ledger, settings)
    volumes = [
        _volume(name, path)
        for name, path in (
            ("uploads", settings.uploads_path),
            ("archive", settings.archive_path),
            ("ledger", settings.ledger_path),
        )
    ]
    serving = lock.is_held(settings.lock_file)
    mirrored = mirrored_position(settings.archive_path)
    attention = [
        {"code": code, "detail": f"step {' and '.join(steps)}, since {since}", "action": OUTAGE_ACTIONS.get(code, _SEE)}
        for code, steps, since in _by_code(outages)
    ]
    if quarantine:
        count = "1 file" if len(quarantine) == 1 else f"{len(quarantine)} files"
        attention.append({"code": "quarantined", "detail": count, "action": "see `storage-ledger quarantine list`"})
    if broken := damaged(settings.index_file, ledger, 1):
        position, fault = broken[0]
        attention.append({"code": "entry-damaged", "detail": f"first at position {position}: {fault}", "action": ENTRY_DAMAGED})
    attention += [
        {
            "code": f"{v['name']}-missing",
            "detail": f"{v['path']} cannot be looked at",
            "action": "is the volume mounted?",
        }
        for v in volumes
        if v["free_bytes"] is None and f"{v['name']}-missing" not in {item["code"] for item in attention}
    ]
    attention += [
        {
            "code": "waiting-long",
            "detail": f"{q.rows} to {q.stage.value}, the oldest since {q.oldest}",
            "action": "see the log, and `storage-ledger show` of a study",
        }
        for q in ledger.queue()
        if q.stage is not Stage.CONFIRM and waits_long(q.oldest, utc_now())
    ]
    if volumes[1]["free_bytes"] is not None:  # where the archive is away, the mirror is away with it, and that is said
        attention += _mirror_lag(ledger, mirrored)
    followed = standing(settings.index_file, ledger)
    if followed is None and last is not None:
        attention.append({"code": "index-missing", "detail": NO_INDEX, "action": INDEX_ACTION})
    attention += _damage(ledger, settings)
    unexplained = None
    if serving:
        known = {item["code"] for item in attention}
        not_ready, unexplained = _asked(settings)
        attention += [item for item in not_ready if item["code"] not in known]
    else:
        attention.append({"code": "not-serving", "detail": "no `storage-ledger serve` holds serve.lock", "action": "start it"})
    return {
        "position": last.position if last else 0,
        "recorded_at": last.recorded_at if last else None,
        "ledger_id": ledger.ledger_id,
        "studies": ledger.count_studies(),
        "index_position": followed,
        "mirror_position": mirrored,
        "serving": serving,
        "queue": waiting,
        "quarantined": len(quarantine),
        "flagged": _flagged(ledger, settings),
        "unexplained": unexplained,
        "last_verify": last_verify(ledger),
        "volumes": volumes,
        "attention": attention,
    }


def last_verify(ledger: Ledger) -> dict[str, Any] | None:
    """What came of the last run of `verify`, or of the last round of the scrub so far; None when there was none."""
    return verification(ledger.of_no_study((Kind.VERIFIED.value,), VERIFIED_READ))


def waits_long(oldest: str, now: datetime) -> bool:
    """Whether something that is to be done is old enough to be looked at."""
    return (now - instant(oldest)).total_seconds() > WAITING_LONG_S


def verification(newest_first: Iterable[Entry]) -> dict[str, Any] | None:
    """The same, of the newest `verified` entries; `position` is that of the newest.

    `unseen`: how many files, folders and parts could not be looked at.
    """
    run: list[Entry] = []
    for entry in newest_first:
        data = entry.data
        if run and (data["by"], data["began"]) != (run[0].data["by"], run[0].data["began"]):
            break
        run.append(entry)
    if not run:
        return None
    payloads = [entry.data for entry in run]
    return {
        "position": run[0].position,
        "by": payloads[0]["by"],
        "began": payloads[0]["began"],
        "recorded_at": run[0].recorded_at,
        "complete": payloads[0]["complete"],
        "selection": payloads[0]["scope"]["selection"],
        **{name: sum(p["counts"][name] for p in payloads) for name in ("files", "intact", "damaged", "unchecked", "bytes", "findings")},
        "unseen": sum(len(p["unchecked"]) for p in payloads),
    }


def found_besides_files(newest_first: Iterable[Entry]) -> list[dict[str, Any]]:
    """What the newest `verified` entries tell of anything but the bytes of a file, which the index knows, the newest first.

    Of the last whole run of `verify` and what came after it, and of the scrub's last round: a scrub reads files alone, a run that
    was interrupted or was about one study has not seen the rest, so neither takes back what was found there. Each has `code`,
    `position`, `study_id` and `path`, and `entry`, the position of the `verified`, with `recorded_at`.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    whole: str | None = None
    scrub: str | None = None
    for entry in newest_first:
        data = entry.data
        if data["by"] == "scrub":
            scrub = scrub or data["began"]
            if data["began"] != scrub:
                continue
        else:
            if whole not in {None, data["began"]}:
                break
            if data["complete"] and data["scope"]["selection"] != "study":
                whole = data["began"]
        for each in data["findings"]:
            if each["code"] not in FIXITY:
                key = tuple(each.get(name) for name in ("code", "position", "path"))
                found.setdefault(key, {**each, "entry": entry.position, "recorded_at": entry.recorded_at})
    return list(found.values())


def study(ledger: Ledger, settings: Settings, study_id: str) -> dict[str, Any]:
    """The story of one study, and of messages with its id that were rejected.

    `fixity` of a file is what `verify` last found, as far as the index knows. `commands` are what `advice` speaks of.
    """
    entries = ledger.study(study_id)
    folded = Study.as_far_as_whole(study_id, entries)
    broken = next((found[0] for found in map(faults, entries) if found), None)
    about = sorted([*entries, *(e for e in ledger.of_no_study(("rejected", "status-sent"), 20_000) if e.data.get("study_id") == study_id)],
                   key=lambda e: e.position)  # fmt: skip
    told = [entry for entry in about if entry.kind == Kind.STATUS_SENT and not faults(entry)]
    before = [None, *about][: len(about)]
    pending = ledger.pending_of(study_id)
    outages = _outages(ledger) if pending else []
    fixity = {name: (word, at) for name, word, at in ask_files(settings.index_file, ledger, _FIXITY, study_id) or ()}
    advice, todo = _advice(folded, {word for word, _ in fixity.values()}, damaged=broken is not None, known=bool(about))
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
                "fixity": fixity.get(f.name, (None, None))[0],
                "verified_at": fixity.get(f.name, (None, None))[1],
            }
            for f in folded.files.values()
        ],
        "entries": [happened(entry, earlier) for entry, earlier in zip(about, before, strict=True)],
        "next": [
            {
                "stage": duty.stage.value,
                "position": duty.entry.position,
                "recorded_at": duty.entry.recorded_at,
                "not_before": duty.not_before,
                "attempts": duty.attempts,
                "summary": NEXT[duty.stage],
                "held_up_by": _held_up_by(duty.stage, outages),
                "failed_with": _failed_with(about, duty),
            }
            for duty in pending
        ],
        "advice": advice,
        "commands": todo,
    }


_FIXITY = "SELECT name, fixity, verified_at FROM files WHERE study_id = ?"


def _advice(study: Study, fixity: set[str], *, damaged: bool, known: bool) -> tuple[str | None, list[str]]:
    """What a person should do about a study, and the commands for it; only the first that matters."""
    code = study.quarantine_code
    if damaged:
        return f"entry-damaged: {ENTRY_DAMAGED}", []
    if code:
        return f"{code}: {ACTIONS.get(code, USUAL_ACTION)}", commands(study.study_id, code)
    if fixity & {"missing", "changed"}:
        return DAMAGED_FILES, [put_back(study.study_id)]
    return (REJECTED_ACTION if known and not study.uploads else None), []


def commands(study_id: str, code: str | None) -> list[str]:
    """For what is quarantined, to be copied into a terminal; the two words of the person are to be filled in."""
    verb = "discard" if "quarantine discard" in ACTIONS.get(code or "", "") else "retry"
    return [
        f"storage-ledger quarantine {each} {shlex.quote(study_id)} --by '{BY}' --reason '{REASON}'"
        for each in dict.fromkeys((verb, "retry", "discard"))
    ]


def put_back(study_id: str | None = None) -> str:
    """The command that looks for lost bytes in a folder; of one study, or of all."""
    only = "" if study_id is None else f" --study {shlex.quote(study_id)}"
    return f"storage-ledger replay --files{only} --source FOLDER"


def _failed_with(entries: list[Entry], duty: Duty) -> dict[str, str] | None:
    """Why a duty was tried in vain, as far as that stands in the ledger."""
    if not duty.attempts or duty.stage is Stage.CONFIRM:
        return None
    failed = [e for e in entries if e.kind == Kind.FAILED and e.cause == duty.entry.position and not faults(e)]
    if not failed:
        return None
    data = failed[-1].data
    return {"code": data["code"], "action": FAILING_ACTIONS.get(data["code"], _SEE)}


def quarantined(ledger: Ledger, settings: Settings, study_id: str | None = None) -> list[dict[str, Any]]:
    """Uploads that wait for a person, oldest first. Of one study it also says under which others such a path was archived."""
    studies = [study_id] if study_id is not None else _maybe_quarantined(ledger, settings.index_file)
    found = []
    for each in sorted(in_quarantine(ledger, studies), key=lambda each: each.position):
        others = _archived_as(ledger, settings.index_file, each) if study_id is not None else []
        found.append(
            {
                "position": each.position,
                "recorded_at": each.recorded_at,
                "study_id": each.study_id,
                "upload_path": each.upload_path,
                "code": each.code,
                "detail": each.detail,
                "action": TWICE_NAMED if others else ACTIONS.get(each.code, USUAL_ACTION),
                "commands": commands(each.study_id, each.code),
            }
            | ({} if study_id is None else {"archived_as": others})
        )
    return found


def _maybe_quarantined(ledger: Ledger, index_file: Path) -> list[str]:
    """Every study of which something is quarantined, and perhaps others. Without an index this reads the whole ledger."""
    position, found = studies_with_upload(index_file, ledger, State.QUARANTINED.value) or (0, [])
    return list(dict.fromkeys([*found, *ledger.studies_with_kind(Kind.QUARANTINED.value, after=position)]))


def _archived_as(ledger: Ledger, index_file: Path, upload: Waiting) -> list[str]:
    """Two study_ids may have named one upload: then the second finds nothing there any more."""
    if upload.code != "upload-missing":
        return []
    return [each for each in archived_from(index_file, ledger, upload.upload_path) if each != upload.study_id]


NEXT = {
    Stage.PLACE: "the file is to be placed in the archive",
    Stage.REMOVE: "the upload is to be removed",
    Stage.TELL: "the Status Service is to be told",
    Stage.CONFIRM: "the status is to be read back",
}


def happened(entry: Entry, earlier: Entry | None) -> dict[str, Any]:
    """One entry of a study's story; `after_s`: how long after the one before it, None where one of both is damaged."""
    timed = earlier is not None and not faults(entry) and not faults(earlier)
    return {
        "position": entry.position,
        "version": entry.version,
        "kind": entry.kind,
        "recorded_at": entry.recorded_at,
        "cause": entry.cause,
        "after_s": (instant(entry.recorded_at) - instant(earlier.recorded_at)).total_seconds() if timed and earlier else None,
        "summary": summary(entry),
    }


def summary(entry: Entry) -> str:
    """One line for people."""
    if found := faults(entry):
        return f"damaged ({found[0]}): what it says may not be believed"
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
        case Kind.RELEASED:
            return f"released, to be tried again, by {data['by']}: {data['reason']}"
        case Kind.DISCARDED:
            return f"discarded by {data['by']}: {data['reason']}"
        case Kind.RESTORED:
            return f"restored: {data['file']['name']}, which was {data['found']}, from {data['source'] or 'a source that is not known'}"
        case Kind.STATUS_SENT:
            return f"status told: {data['status']}" + (" again, it had been overwritten" if data.get("reason") == "overwritten" else "")
        case Kind.FAILED:
            then = f"next {data['retry_at']}" if data["retry_at"] else "it has not come back yet"
            return f"failed to {data['step']}: {data['code']}, attempt {data['attempt']}, {then}"
        case _:
            return entry.kind


WAITS_FOR = {
    Stage.PLACE: {"place"},
    Stage.REMOVE: {"remove", "mirror"},
    Stage.TELL: {"tell", "mirror"},
    Stage.CONFIRM: {"tell", "mirror"},
}
"""At which steps an outage holds up a duty of that stage."""


def _held_up_by(stage: Stage, outages: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    """The outages for which a duty of that stage waits, each with what to do. All but placing waits for the mirror as well."""
    return [
        {"code": code, "since": since, "action": OUTAGE_ACTIONS.get(code, _SEE)}
        for step, code, since in outages
        if step in WAITS_FOR[stage]
    ]


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


def _by_code(outages: list[tuple[str, str, str]]) -> list[tuple[str, list[str], str]]:
    """One cause stops several steps: code, steps, since when the first of them."""
    found: dict[str, tuple[list[str], str]] = {}
    for step, code, since in outages:
        steps, first = found.get(code, ([], since))
        found[code] = ([*steps, step], min(first, since))
    return [(code, *rest) for code, rest in found.items()]


def _volume(name: str, path: Path) -> dict[str, Any]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return {"name": name, "path": str(path), "free_bytes": None, "total_bytes": None}
    return {"name": name, "path": str(path), "free_bytes": usage.free, "total_bytes": usage.total}


def _flagged(ledger: Ledger, settings: Settings) -> int | None:
    """How many files are worth a look and wait for nobody; None without an index. They stay, so nothing may be alarmed by them."""
    rows = ask_files(settings.index_file, ledger, "SELECT count(*) FROM files WHERE sop_conflict OR study_uid_differs")
    return int(rows[0][0]) if rows else None


def _damage(ledger: Ledger, settings: Settings) -> list[dict[str, str]]:
    where = "FROM files INDEXED BY files_damaged WHERE fixity IN ('missing', 'changed')"  # SQLite would count in a larger one
    sql = f"SELECT archive_path, fixity, (SELECT count(*) {where}) {where} ORDER BY position LIMIT 1"
    rows = ask_files(settings.index_file, ledger, sql)
    found = []
    if rows:
        path, fixity, number = rows[0]
        count = "1 file of the archive is" if number == 1 else f"{number} files of the archive are"
        text = f"{count} missing or changed, when last read; {'' if number == 1 else 'the first: '}{path}, {fixity}"
        found.append({"code": "damaged-files", "detail": text, "action": "see docs/how-to/verify.md"})
    others = found_besides_files(ledger.of_no_study((Kind.VERIFIED.value,), VERIFIED_READ))
    if others:
        codes = _numbers(Counter(str(each["code"]) for each in others))
        text = f"{codes}; the last of {others[0]['recorded_at']}"
        found.append({"code": "verify-findings", "detail": text, "action": VERIFY_AGAIN})
    if (later := unrecorded.kept(settings.ledger_path)) is not None:
        text = f"{_numbers(later.counts)}, of {later.at}; not recorded: where ledger or mirror are damaged, nothing is"
        found.append({"code": "verify-findings", "detail": text, "action": VERIFY_AGAIN})
    return found


def _numbers(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in counts.most_common())


def _mirror_lag(ledger: Ledger, mirrored: int | None) -> list[dict[str, str]]:
    first = next(iter(ledger.read(mirrored or 0, 1)), None)
    if first is None or (mirrored is not None and (utc_now() - instant(first.recorded_at)).total_seconds() < MIRROR_LAGS_S):
        return []
    if mirrored is None:
        text, action = "ARCHIVE_PATH holds no mirror of the ledger", "is the right volume mounted?"
    else:
        text, action = f"nothing after position {mirrored} is mirrored", "see the log; what is not mirrored is not told"
    return [{"code": "mirror-lags" if mirrored is not None else "mirror-missing", "detail": text, "action": action}]


def _asked(settings: Settings) -> tuple[list[dict[str, str]], int | None]:
    """What `serve` itself says: why it is not ready, and how many files in uploads nothing explains; None where it does not say.

    Whether it hears Redis, and what its last look through uploads came to, is known to nobody else.
    """
    if settings.http_port == 0:
        return [], None  # it took a free one, and did not tell us
    host = "127.0.0.1" if _is_any(settings.http_host) else settings.http_host
    connection = http.client.HTTPConnection(host, settings.http_port, timeout=READY_WITHIN_S)
    try:
        reasons = json.loads(_read(connection, "/readyz")).get("reasons", [])
        not_ready = [
            {**{name: str(reason[name]) for name in ("code", "detail")}, "action": NOT_READY_ACTIONS.get(str(reason["code"]), _SEE)}
            for reason in reasons
        ]
        found = re.search(rf"^{UNEXPLAINED} (\S+)$", _read(connection, "/metrics").decode(), re.MULTILINE)
        return not_ready, None if found is None else int(float(found[1]))
    except (OSError, http.client.HTTPException, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        where = f"http://{host}:{settings.http_port}"
        text = f"`serve` holds serve.lock, but nothing of use came from {where} within {READY_WITHIN_S:.0f} s"
        action = "are HTTP_HOST and HTTP_PORT those of the service? Else see its log"
        return [{"code": "not-answering", "detail": text, "action": action}], None
    finally:
        connection.close()


def _read(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read(1 << 20)


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
