"""Entry → rows: folds one study's entries into its rows of `studies`, `uploads` and `files`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.paths import archive_path
from storage_ledger.domain.patient_identity import MAX_TEXT, PATIENT, UIDS, differences, name_of, names_a_patient, said_by
from storage_ledger.domain.patient_identity import text_of as _text
from storage_ledger.domain.study import MOST_URGENT_FIRST, State, metadata_of, upload_state
from storage_ledger.index.column_sources import (
    FILE_FROM_STUDY,
    FROM_MESSAGE,
    NUMBERS_FROM_HEADER,
    STUDY_FROM_HEADER,
    TEXTS_FROM_HEADER,
    WHOLE,
    whole_number,
)
from storage_ledger.index.columns import FILE, STUDY, UPLOAD, FileColumn, FileRow, StudyColumn, StudyRow, UploadRow
from storage_ledger.index.schema import COLUMNS, FLAGS

_NOTHING: dict[str, Any] = {}
_PATIENT, _STUDY = "patient", "study"  # values of `files.from_message`
NO_STUDY = "no-study-uid"
"""`dicom_error` of a file whose header was read, but neither header nor message names a DICOM study: no list of studies has it."""
_OF_A_FILE = frozenset({Kind.ARCHIVED, Kind.HEADER_READ, Kind.RESTORED})
_PENDING, _ARCHIVED = State.PENDING, State.ARCHIVED
_VALUES = {state: state.value for state in State}


def _new(table: str, **values: Any) -> Any:
    return list((dict.fromkeys(COLUMNS[table]) | values).values())


_NEW_STUDY: StudyRow = _new("studies", state=State.PENDING.value, files=0, bytes=0, last_position=0)
_NEW_FILE: FileRow = _new("files", fixity="unverified", **dict.fromkeys(FLAGS, 0))
_STUDY_IDENTITY: tuple[tuple[str, StudyColumn[str | None]], ...] = tuple((name, getattr(STUDY, name)) for name in PATIENT)
_COLUMN_OF: dict[str, FileColumn[str | None]] = {name: getattr(FILE, name) for name in (*PATIENT, *UIDS)}


class OtherUploads(Protocol):
    """The uploads of a study that are in the table but not in memory."""

    def any_in(self, state: State) -> bool:
        """Return whether an upload is in this state."""


@dataclass(slots=True)
class StudyRows:
    """The rows of one study; `apply` its entries in order.

    `changed_files`, `changed_uploads`: keys of rows that are new or different.
    `said`: patient and UIDs according to each message that is known here, by the position of its `described` entry.
    `stale`: study UID and position of files whose flags have changed, which makes tables derived from `files` out of date.
    `before`: by name, rows of `files` as they were before another header or message changed them.
    `others`: set if not all of the study's uploads and files are in memory; then `files` must have those in `names` before `apply`.
    """

    study: StudyRow
    uploads: dict[str, UploadRow] = field(default_factory=dict)
    files: dict[str, FileRow] = field(default_factory=dict)
    changed_files: set[str] = field(default_factory=set)
    changed_uploads: set[str] = field(default_factory=set)
    said: dict[int | None, dict[str, str]] = field(default_factory=dict)
    stale: set[tuple[str, int]] = field(default_factory=set)
    before: dict[str, FileRow] = field(default_factory=dict)
    others: OtherUploads | None = None
    states: Counter[str] | None = None
    """Number of `uploads` in each state, counted once there are several: a study may have ten thousand."""

    @classmethod
    def new(cls, study_id: str) -> StudyRows:
        """Create the rows of a new study."""
        rows = cls(_NEW_STUDY.copy())
        rows.study[STUDY.study_id] = study_id
        return rows

    def apply(self, entry: Entry) -> None:
        """Fold in the next entry of this study."""
        data = entry.data
        if (take := self._TAKES.get(entry.kind)) is not None:
            take(self, entry, data)
        state = upload_state(entry.kind, data.get("step"))
        if state is not None and (path := data.get("upload_path")) is not None:
            before = self.uploads.get(path)
            why = _NOTHING if state is _PENDING else data
            row: Any = [self.study[STUDY.study_id], path, _VALUES[state], why.get("code"), entry.position]
            self.uploads[path] = row
            self.changed_uploads.add(path)
            if len(self.uploads) > 1 or self.others is not None:
                state = self._state_of_all(before, state)
            self.study[STUDY.state] = _VALUES[state]
        self.study[STUDY.last_position] = entry.position

    def _state_of_all(self, before: UploadRow | None, now: State) -> State:
        """Return the study's state after one upload changed its state."""
        if self.states is None:
            self.states = Counter(row[UPLOAD.state] for row in self.uploads.values())
        else:
            self.states[_VALUES[now]] += 1
            if before is not None:
                self.states[before[UPLOAD.state]] -= 1
        for state in MOST_URGENT_FIRST:
            if self.states[_VALUES[state]] or (self.others is not None and self.others.any_in(state)):
                return state
        return State.DISCARDED

    @staticmethod
    def names(entry: Entry) -> Iterator[str]:
        """Yield the names of the files whose rows `apply` reads for this entry."""
        if entry.kind in _OF_A_FILE:
            yield entry.data["file"]["name"]
            if isinstance(replaced := entry.data.get("supersedes"), str):
                yield replaced

    def forget_changes(self) -> None:
        """Mark all changes as written."""
        self.changed_files.clear()
        self.changed_uploads.clear()
        self.before.clear()
        self.stale.clear()

    def needs(self, entry: Entry) -> int | None:
        """Return the position of the `described` entry that `apply` needs for this file: pass it to `add_message`. None if known."""
        position = entry.cause if entry.kind == Kind.ARCHIVED else None
        if entry.kind == Kind.HEADER_READ and (row := self.files.get(entry.data["file"]["name"])) is not None:
            position = row[FILE.described]
        return None if position in self.said else position

    def add_message(self, position: int, described: Entry | None) -> None:
        """Remember patient and UIDs of the message at this position. `described`: the entry; None if it is damaged or missing."""
        ours = described is not None and described.kind == Kind.DESCRIBED and described.study_id == self.study[STUDY.study_id]
        self.said[position] = said_by(metadata_of(described.data["message"])) if described is not None and ours else {}

    def _described(self, entry: Entry, data: dict[str, Any]) -> None:
        study = self.study
        study[STUDY.described_at] = study[STUDY.described_at] or data.get("processing_time", entry.recorded_at)
        metadata = metadata_of(data["message"])
        self.said[entry.position] = said_by(metadata)
        self._identify(self.said[entry.position], instead=True)
        for group, columns in FROM_MESSAGE:
            if said := metadata.get(group):
                for column, key in columns:
                    value = said.get(key)
                    plain = value.__class__ is str and len(value) <= MAX_TEXT and "\0" not in value
                    if text := value.strip() if plain else _text(value):
                        study[column] = text

    def _archived(self, entry: Entry, data: dict[str, Any]) -> None:
        header = data.get("dicom") or {}
        archived_at = data.get("processing_time", entry.recorded_at)  # of an adopted file, the old service's
        study = self.study
        study[STUDY.archived_at] = archived_at
        study[STUDY.last_error] = None
        for column, keyword in STUDY_FROM_HEADER:
            if study[column] is None:
                study[column] = _text(header.get(keyword))
        file = data["file"]
        name = file["name"]
        if name in self.files:
            if data.get("placement") == "copied":  # its bytes were placed again: earlier verification no longer counts
                self._placed_again(name, placed=entry.position, fixity="unverified", verified_at=None)
            if header and self.files[name][FILE.dicom_error] is not None:
                self._reread_header(name, header, data.get("dicom_error"))
            self._flag_by_message(name, entry, data)
            return
        study_id = study[STUDY.study_id]
        row = _NEW_FILE.copy()
        row[FILE.study_id] = study_id
        row[FILE.name] = name
        row[FILE.original_name] = file["original_name"]
        row[FILE.sha256] = file["sha256"]
        row[FILE.bytes] = file["bytes"]
        row[FILE.archive_path] = archive_path(study_id, name)
        row[FILE.archived_at] = archived_at
        row[FILE.position] = row[FILE.placed] = entry.position
        self._take(row, header, data.get("dicom_error"))
        self.files[name] = row
        self.changed_files.add(name)
        self._name_patient(row)
        self._flag_by_message(name, entry, data)
        self.before.pop(name, None)  # it is new: nothing was derived from it yet
        study[STUDY.files] += 1
        study[STUDY.bytes] += file["bytes"]

    def _take(self, row: FileRow, header: dict[str, Any], error: str | None) -> None:
        """Set the columns that come from the header; values from the message are not used here."""
        row[FILE.dicom_error] = error
        get = header.get
        for column, keyword in TEXTS_FROM_HEADER:
            value = get(keyword)
            if value is None:
                row[column] = None
            elif value.__class__ is str and len(value) <= MAX_TEXT and "\0" not in value:
                row[column] = value.strip() or None
            else:
                row[column] = _text(value)
        for number, keyword in NUMBERS_FROM_HEADER:
            value = get(keyword)
            if value is None or (value.__class__ is int and -WHOLE < value < WHOLE):
                row[number] = value
            else:
                row[number] = whole_number(value)
        row[FILE.patient_name] = name_of(row[FILE.patient_name])
        row[FILE.from_message] = None

    def _header_read(self, _: Entry, data: dict[str, Any]) -> None:
        name, header = data["file"]["name"], data["dicom"] or {}
        if name not in self.files or self.files[name][FILE.sha256] != data["file"]["sha256"]:
            return
        for column, keyword in STUDY_FROM_HEADER:
            if self.study[column] is None:
                self.study[column] = _text(header.get(keyword))
        self._reread_header(name, header, data.get("dicom_error"))

    def _reread_header(self, name: str, header: dict[str, Any], error: str | None) -> None:
        """Replace the values from a file's header with those of a new read."""
        row = self._about_to_change(name)
        self._take(row, header, error)
        row[FILE.sop_conflict] = 0  # decided again for the new SOP Instance UID
        if _lacks_something(row):
            self._stand_in(name)
        self._name_patient(row)
        self._compare(name)

    def _about_to_change(self, name: str) -> FileRow:
        row = self.files[name]
        self.before.setdefault(name, row.copy())
        self.changed_files.add(name)
        return row

    def _stand_in(self, name: str) -> None:
        """Fill in patient and study from the file's message if its header cannot be read or does not name them.

        Name, ID, birth date and sex all come from the header or all from the message: a patient is never composed of two sources.
        """
        row = self.files[name]
        before = row[FILE.from_message] or ""
        said = self.said.get(row[FILE.described], _NOTHING)
        of = []
        if names_a_patient(said) and (_PATIENT in before or not (row[FILE.patient_id] or row[FILE.patient_name])):
            self._fill(name, {_COLUMN_OF[each]: said.get(each) for each in PATIENT})
            of.append(_PATIENT)
        uid = said.get("study_instance_uid")
        if uid and (_STUDY in before or row[FILE.study_instance_uid] is None):
            missing = {column: self.study[of_study] for column, of_study in FILE_FROM_STUDY if row[column] is None}
            missing[FILE.study_instance_uid] = uid
            self._fill(name, missing)
            of.append(_STUDY)
        row[FILE.from_message] = ", ".join(of) or row[FILE.from_message]
        if row[FILE.dicom_error] in {None, NO_STUDY}:
            row[FILE.dicom_error] = NO_STUDY if row[FILE.study_instance_uid] is None else None

    def _fill(self, name: str, values: dict[FileColumn[str | None], str | None]) -> None:
        if any(self.files[name][column] != value for column, value in values.items()):
            row = self._about_to_change(name)
            for column, value in values.items():
                row[column] = value

    def _name_patient(self, row: FileRow) -> None:
        if not (self.study[STUDY.patient_name] or self.study[STUDY.patient_id]):
            self._identify(_identity_in(row))

    def _identify(self, identity: Mapping[str, str | None], *, instead: bool = False) -> None:
        """Set the study's patient: name, ID, birth date and sex all come from one message or one file.

        The last message with a name or an ID takes precedence, then the first file with one, then the first message or file with a
        birth date or a sex. `instead`: a name or an ID replaces the present one.
        """
        study = self.study
        if names_a_patient(identity):
            if not instead and (study[STUDY.patient_name] or study[STUDY.patient_id]):
                return
        elif any(study[place] for _, place in _STUDY_IDENTITY):
            return
        for name, place in _STUDY_IDENTITY:
            study[place] = identity.get(name)

    def _flag_by_message(self, name: str, entry: Entry, data: dict[str, Any]) -> None:
        """Flag a file according to its message; of several messages, the one described last counts."""
        replaced = data.get("supersedes")
        if isinstance(replaced, str) and replaced in self.files and replaced != name:
            self._flag(replaced, FILE.superseded, is_set=True)
            self._flag(name, FILE.superseded, is_set=False)
        row = self.files[name]
        if (row[FILE.described] or 0) > (entry.cause or 0):
            return  # delayed: a newer message was archived first
        row[FILE.described] = entry.cause
        self.changed_files.add(name)
        if (unconfirmed := data.get("unconfirmed") is True) or row[FILE.unconfirmed]:
            self._flag(name, FILE.unconfirmed, unconfirmed)
        if _lacks_something(row) or row[FILE.from_message] is not None:
            self._stand_in(name)
        self._compare(name)

    def _compare(self, name: str) -> None:
        """Compare a file's header with its message (in `said`) and set the flags accordingly."""
        row = self.files[name]
        said = self.said.get(row[FILE.described], _NOTHING)
        for attribute, value in said.items():
            if row[_COLUMN_OF[attribute]] != value:
                break
        else:
            if row[FILE.announced] is None:  # the usual case: both agree, and did so before
                return
        attributes = {each.attribute for each in differences(said, _header_of(row))}
        row[FILE.announced] = canonical_json.dumps(said) if attributes else None
        self._flag(name, FILE.message_differs, bool(attributes))
        self._flag(name, FILE.study_uid_differs, "study_instance_uid" in attributes)

    def _flag(self, name: str, column: FileColumn[int], is_set: bool) -> None:
        row = self.files[name]
        if row[column] != is_set:
            row[column] = int(is_set)
            self.changed_files.add(name)
            if uid := row[FILE.study_instance_uid]:
                self.stale.add((uid, row[FILE.position]))

    def _status_sent(self, _: Entry, data: dict[str, Any]) -> None:
        self.study[STUDY.status_sent] = data["status"]
        if self.study[STUDY.state] == _ARCHIVED:
            self.study[STUDY.last_error] = None

    def _restored(self, entry: Entry, data: dict[str, Any]) -> None:
        self._placed_again(data["file"]["name"], placed=entry.position, fixity="intact", verified_at=entry.recorded_at)

    def _failed(self, _: Entry, data: dict[str, Any]) -> None:
        self.study[STUDY.last_error] = data["code"]

    def _placed_again(self, name: str, placed: int, fixity: str, verified_at: str | None) -> None:
        if (row := self.files.get(name)) is not None:
            row[FILE.placed], row[FILE.fixity], row[FILE.verified_at] = placed, fixity, verified_at
            self.changed_files.add(name)

    # `released` and `discarded` only change the state of an upload.
    _TAKES: ClassVar[dict[str, Callable[[StudyRows, Entry, dict[str, Any]], None]]] = {
        Kind.DESCRIBED: _described,
        Kind.ARCHIVED: _archived,
        Kind.STATUS_SENT: _status_sent,
        Kind.RESTORED: _restored,
        Kind.HEADER_READ: _header_read,
        Kind.FAILED: _failed,
        Kind.QUARANTINED: _failed,
    }


def _identity_in(row: FileRow) -> dict[str, str | None]:
    """Return patient and UIDs in the file's row."""
    return {name: row[place] for name, place in _COLUMN_OF.items()}


def _lacks_something(row: FileRow) -> bool:
    """Return whether the header is incomplete, or does not name a study or a patient."""
    names_nobody = row[FILE.patient_id] is None and row[FILE.patient_name] is None
    return names_nobody or row[FILE.study_instance_uid] is None or row[FILE.dicom_error] is not None


def _header_of(row: FileRow) -> dict[str, str | None]:
    """Return patient and UIDs in the file's row, without those that came from the message."""
    of = row[FILE.from_message] or ""
    left_out = (PATIENT if _PATIENT in of else ()) + (("study_instance_uid",) if _STUDY in of else ())
    return _identity_in(row) | dict.fromkeys(left_out)
