"""Check the work queue (table `pending`) against the entries: no work item is missing, and none is unexplained.

For `place` and `tell`, the entries say which rows must exist. `remove` and `confirm` end without an entry, so only impossible
rows are reported. Rows that may or may not exist (a redelivery that was processed together with the first message) are ignored.
"""

from __future__ import annotations

from datetime import datetime
from itertools import takewhile
from typing import Any

from storage_ledger.domain.entries import Entry, Kind, understood
from storage_ledger.domain.ids import instant
from storage_ledger.domain.redeliveries import DescribedUpload, repeats_of
from storage_ledger.domain.work_queue import Stage
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader

PART = "ledger"
FILE = "ledger.db"
FAR_S = 86_400.0
"""No backoff lasts this long, so a row with a later time is wrong."""


class WorkQueueCheck:
    """Call `apply` with every entry in order, then `judge` with the rows. Holds only open work items in memory."""

    def __init__(self, reader: UntrustingReader) -> None:
        self._reader = reader
        self._place: dict[int, tuple[str, str, str]] = {}  # position of a `described` → study, upload, SHA-256 of the message
        self._by_upload: dict[tuple[str, str], list[int]] = {}
        self._perhaps: set[int] = set()
        self._tell: dict[int, str | None] = {}

    def apply(self, entry: Entry) -> None:
        """Apply the next entry."""
        match entry.kind:
            case Kind.DESCRIBED:
                self._described(entry)
            case Kind.ARCHIVED | Kind.QUARANTINED:
                self._apply_outcome(entry)
            case Kind.RELEASED:
                described = self._reader.get(entry.data["described"])
                if described is not None:
                    self._open(described)
            case Kind.DISCARDED:
                self._tell[entry.position] = entry.study_id
            case Kind.REJECTED:
                study_id = entry.data.get("study_id")
                if study_id is not None and not self._knows(study_id, entry.position):
                    self._tell[entry.position] = study_id
            case Kind.STATUS_SENT:
                for position in entry.data["tells"]:
                    self._tell.pop(position, None)

    def judge(self, rows: list[Any], found: Findings, now: datetime) -> None:
        """Compare with the rows of `pending` (position, stage, not_before, attempts), read in the same snapshot."""
        there = {(row[0], row[1]) for row in rows}
        for position, (study_id, _, _) in self._place.items():
            if (position, Stage.PLACE.value) not in there and position not in self._perhaps:
                _missing(found, position, study_id, Stage.PLACE)
        for position, known in self._tell.items():
            if (position, Stage.TELL.value) not in there and not self._is_unneeded(position, known):
                _missing(found, position, known, Stage.TELL)
        for position, stage, not_before, attempts in rows:
            text = self._why_impossible(position, stage) or _why_invalid(stage, not_before, attempts, now)
            if text:
                entry = self._reader.get(position)
                found.report(
                    "duty-unexplained",
                    PART,
                    position=position,
                    study_id=entry.study_id if entry else None,
                    path=FILE,
                    detail=f"pending: {text}",
                )

    def _described(self, entry: Entry) -> None:
        if entry.data["source"] != "adopt":  # an adopted file was in the archive already; nothing was uploaded
            self._open(entry)

    def _open(self, described: Entry) -> None:
        data = described.data
        key = (described.study_id or "", data["upload_path"])
        self._place[described.position] = (*key, data["raw_sha256"])
        waiting = self._by_upload.setdefault(key, [])
        if described.position not in waiting:
            waiting.append(described.position)
            waiting.sort()
        self._perhaps.discard(described.position)

    def _apply_outcome(self, entry: Entry) -> None:
        cause = entry.cause or 0
        data = entry.data
        if not data.get("adopted") or data.get("tell"):
            self._tell[entry.position] = entry.study_id
        known = self._place.get(cause)
        if known is None:
            described = self._reader.get(cause)
            if described is None:
                return
            data = described.data
            known = (described.study_id or "", data["upload_path"], data["raw_sha256"])
        self._close(cause)
        for position in self._repeats(cause, known, entry.position):
            if entry.kind == Kind.ARCHIVED and not self._contradicted(cause, known, position):
                self._close(position)
            else:
                self._perhaps.add(position)  # the outcome covers a message recorded by then, but not a later one

    def _repeats(self, cause: int, known: tuple[str, str, str], before: int) -> list[int]:
        """Return the other pending messages that this outcome may also cover."""
        _, path, raw_sha256 = known
        waiting = takewhile(lambda position: position < before, self._by_upload.get(known[:2], []))
        others = (DescribedUpload(position, path, self._place[position][2]) for position in waiting)
        return repeats_of(DescribedUpload(cause, path, raw_sha256), others)

    def _contradicted(self, cause: int, known: tuple[str, str, str], position: int) -> bool:
        """Return whether a different message about that upload came between the two.

        Earlier versions of this program ignored such a message.
        """
        study_id, path, raw_sha256 = known
        if cause > position:
            return False
        between = "SELECT position FROM entries WHERE study_id = ? AND kind = 'described' AND position > ? AND position < ?"
        for row in self._reader.sql(between, study_id, cause, position):
            other = self._reader.get(row[0])
            data = {} if other is None else understood(other) or {}
            if data.get("upload_path") == path and data.get("raw_sha256") != raw_sha256:
                return True
        return False

    def _close(self, position: int) -> None:
        known = self._place.pop(position, None)
        self._perhaps.discard(position)
        if known is not None:
            waiting = self._by_upload[known[:2]]
            waiting.remove(position)
            if not waiting:
                del self._by_upload[known[:2]]

    def _why_impossible(self, position: int, stage: str) -> str | None:
        """Return why such a row is impossible; None if it is possible."""
        entry = self._reader.get(position)
        if entry is None:
            return f"{stage} for an entry that does not exist"
        match stage:
            case Stage.PLACE:
                fine = entry.kind == Kind.DESCRIBED and (position in self._place or self._was_archived(entry))
            case Stage.REMOVE:
                fine = entry.kind == Kind.ARCHIVED
            case Stage.TELL:
                fine = position in self._tell
            case Stage.CONFIRM:
                fine = entry.kind == Kind.STATUS_SENT and self._is_newest(entry)
            case _:
                return "unknown stage"
        return None if fine else f"{stage} is not needed"

    def _was_archived(self, described: Entry) -> bool:
        """Return whether the upload was archived. If it had changed by the time it was to be removed, it may be placed again."""
        return bool(
            self._reader.sql(
                "SELECT 1 FROM entries WHERE study_id = ? AND kind = ? AND cause = ? LIMIT 1",
                described.study_id,
                Kind.ARCHIVED.value,
                described.position,
            )
        )

    def _is_newest(self, sent: Entry) -> bool:
        if sent.study_id is None:
            return True
        sql = "SELECT 1 FROM entries WHERE study_id = ? AND kind = ? AND position > ? LIMIT 1"
        return not self._reader.sql(sql, sent.study_id, Kind.STATUS_SENT.value, sent.position)

    def _is_unneeded(self, position: int, study_id: str | None) -> bool:
        """Return whether a rejected message's status need not be sent, because its study was described after all."""
        entry = self._reader.get(position)
        return entry is not None and entry.kind == Kind.REJECTED and study_id is not None and self._knows(study_id, None)

    def _knows(self, study_id: str, before: int | None) -> bool:
        sql = "SELECT 1 FROM entries WHERE study_id = ? AND kind = ? AND position < ? LIMIT 1"
        return bool(self._reader.sql(sql, study_id, Kind.DESCRIBED.value, before if before is not None else 2**62))


def _missing(found: Findings, position: int, study_id: str | None, stage: Stage) -> None:
    text = f"pending: no work item {stage.value}"
    found.report("duty-missing", PART, position=position, study_id=study_id, path=FILE, detail=text)


def _why_invalid(stage: str, not_before: object, attempts: object, now: datetime) -> str | None:
    if not isinstance(attempts, int) or attempts < 0:
        return "attempts is not a count"
    try:
        due = instant(str(not_before))
        away_s = (due - now).total_seconds()
    except (ValueError, TypeError):
        return "not_before is not a time"
    return "not_before is more than a day ahead" if away_s > FAR_S and stage != Stage.CONFIRM else None
