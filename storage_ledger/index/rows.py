"""Entry → rows: what one study's entries amount to in `studies`, `uploads` and `files`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from storage_ledger.core.entries import Entry, Kind
from storage_ledger.core.layout import archive_path
from storage_ledger.core.study import State, metadata_of, study_state, upload_state
from storage_ledger.index.tables import COLUMNS, FILE, STUDY, UPLOAD

# index column ← (group of the message, key in it, keyword of the header)
DESCRIPTIVE = {
    "patient_id": ("patient_info", "patient_id", "PatientID"),
    "patient_name": ("patient_info", "patient_name", "PatientName"),
    "patient_birth_date": ("patient_info", "patient_birth_date", "PatientBirthDate"),
    "patient_sex": ("patient_info", "patient_sex", "PatientSex"),
    "study_instance_uid": ("study_info", "study_instance_uid", "StudyInstanceUID"),
    "study_date": ("study_info", "study_date", "StudyDate"),
    "study_time": ("study_info", "study_time", "StudyTime"),
    "study_description": ("study_info", "study_description", "StudyDescription"),
    "accession_number": ("study_info", "accession_number", "AccessionNumber"),
    "modality": ("modality_info", "modality", "Modality"),
    "manufacturer": ("modality_info", "manufacturer", "Manufacturer"),
    "institution_name": ("location_info", "institution_name", "InstitutionName"),
}

PATIENT = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
IDENTITY = frozenset({*PATIENT, "study_instance_uid"})

FROM_HEADER = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
    "sop_class_uid": "SOPClassUID",
    "transfer_syntax_uid": "TransferSyntaxUID",
    "modality": "Modality",
    "instance_number": "InstanceNumber",
    "rows": "Rows",
    "columns": "Columns",
    "frames": "NumberOfFrames",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "accession_number": "AccessionNumber",
    "institution_name": "InstitutionName",
    "manufacturer": "Manufacturer",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "body_part": "BodyPartExamined",
}
WHOLE_NUMBERS = frozenset({"instance_number", "rows", "columns", "frames", "series_number"})

MAX_TEXT = 1024
WHOLE = 1 << 53  # below that every JSON reader has the same number
Row = list[Any]
"""The values of a row in the order of its table's columns, as they are written: `STUDY`, `UPLOAD` and `FILE` say where each stands."""

# The loops below run for every entry of the ledger when the index is made anew: they have nothing left to look up.
_SAID = tuple(
    (group, tuple((getattr(STUDY, column), key) for column, (of, key, _) in DESCRIPTIVE.items() if of == group))
    for group in dict.fromkeys(group for group, _, _ in DESCRIPTIVE.values())
)
_FOUND = tuple((getattr(STUDY, column), keyword) for column, (_, _, keyword) in DESCRIPTIVE.items())
_TEXTS = tuple((getattr(FILE, column), keyword) for column, keyword in FROM_HEADER.items() if column not in WHOLE_NUMBERS)
_NUMBERS = tuple((getattr(FILE, column), keyword) for column, keyword in FROM_HEADER.items() if column in WHOLE_NUMBERS)
_OTHERS = tuple((column, getattr(STUDY, column)) for column in DESCRIPTIVE if column not in IDENTITY)
_NOTHING: dict[str, Any] = {}
_PENDING, _ARCHIVED = State.PENDING, State.ARCHIVED
_VALUES = {state: state.value for state in State}


def _new(table: str, **values: Any) -> Row:
    return list((dict.fromkeys(COLUMNS[table]) | values).values())


_NEW_STUDY = _new("studies", state=State.PENDING.value, files=0, bytes=0, last_position=0)
_NEW_FILE = _new("files", fixity="unverified", sop_conflict=0, study_uid_differs=0)


@dataclass(slots=True)
class StudyRows:
    """The rows of one study; `apply` its entries in order. `changed_*`: keys of rows that are new or different.

    `said`: the metadata of the messages that are known here, by the position of their `described` entry. `before`:
    each row of `files` as it was before its header was read again.
    """

    study: Row
    uploads: dict[str, Row] = field(default_factory=dict)
    files: dict[str, Row] = field(default_factory=dict)
    changed_files: set[str] = field(default_factory=set)
    changed_uploads: set[str] = field(default_factory=set)
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, Row] = field(default_factory=dict)

    @classmethod
    def new(cls, study_id: str) -> StudyRows:
        """A study of which nothing is known yet."""
        rows = cls(_NEW_STUDY.copy())
        rows.study[STUDY.study_id] = study_id
        return rows

    def apply(self, entry: Entry) -> None:
        """Take one more entry of this study."""
        data = entry.data
        if (says := self._SAYS.get(entry.kind)) is not None:
            says(self, entry, data)
        state = upload_state(entry.kind, data)
        if state is not None and (path := data.get("upload_path")) is not None:
            why = _NOTHING if state is _PENDING else data
            self.uploads[path] = [self.study[STUDY.study_id], path, _VALUES[state], why.get("code"), entry.position]
            self.changed_uploads.add(path)
            if len(self.uploads) > 1:
                state = study_state(row[UPLOAD.state] for row in self.uploads.values())
            self.study[STUDY.state] = _VALUES[state]
        self.study[STUDY.last_position] = entry.position

    def needs(self, entry: Entry) -> int | None:
        """The position of the `described` whose message may have to stand in for this entry's header, where it is not known: `hear` it."""
        return entry.cause if entry.kind == Kind.ARCHIVED and entry.cause not in self.said else None

    def hear(self, position: int, described: Entry | None) -> None:
        """What the message of the `described` at this position says; None where it is damaged, or is not there."""
        ours = described is not None and described.kind == Kind.DESCRIBED and described.study_id == self.study[STUDY.study_id]
        self.said[position] = metadata_of(described.data["message"]) if described is not None and ours else {}

    def _described(self, entry: Entry, data: dict[str, Any]) -> None:
        study = self.study
        study[STUDY.described_at] = study[STUDY.described_at] or data.get("processing_time", entry.recorded_at)
        self.said[entry.position] = metadata = metadata_of(data["message"])
        for group, columns in _SAID:
            if said := metadata.get(group):
                for column, key in columns:
                    value = said.get(key)
                    plain = value.__class__ is str and len(value) <= MAX_TEXT and "\0" not in value
                    if text := value.strip() if plain else _text(value):
                        study[column] = text

    def _archived(self, entry: Entry, data: dict[str, Any]) -> None:
        header = data.get("dicom") or {}
        archived_at = data.get("processing_time", entry.recorded_at)  # an adopted file has been there for long
        study = self.study
        study[STUDY.archived_at] = archived_at
        study[STUDY.last_error] = None
        for column, keyword in _FOUND:
            if study[column] is None:
                study[column] = _text(header.get(keyword))
        file = data["file"]
        name = file["name"]
        if name in self.files:
            if data.get("placement") == "copied":  # its bytes were put there anew: what was found before is past
                self._placed_anew(name, placed=entry.position, fixity="unverified", verified_at=None)
            if header and self.files[name][FILE.dicom_error] is not None:
                self._read_again(name, header, data.get("dicom_error"))
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
        if row[FILE.dicom_error] is not None or row[FILE.study_instance_uid] is None:
            _stand_in(row, _said_by(self.said.get(entry.cause or 0, _NOTHING)) | {name: study[place] for name, place in _OTHERS})
        self.files[name] = row
        self.changed_files.add(name)
        study[STUDY.files] += 1
        study[STUDY.bytes] += file["bytes"]

    def _take(self, row: Row, header: dict[str, Any], error: str | None) -> None:
        """Put into a file's row what its header says, and nothing else."""
        row[FILE.dicom_error] = error
        get = header.get
        for column, keyword in _TEXTS:
            value = get(keyword)
            if value.__class__ is str and len(value) <= MAX_TEXT and "\0" not in value:
                row[column] = value.strip() or None
            else:
                row[column] = _text(value)
        for column, keyword in _NUMBERS:
            value = get(keyword)
            if value.__class__ is int and -WHOLE < value < WHOLE:
                row[column] = value
            else:
                row[column] = _number(value)
        said, found = self.study[STUDY.study_instance_uid], row[FILE.study_instance_uid]
        row[FILE.study_uid_differs] = int(said is not None and found is not None and said != found)

    def _header_read(self, _: Entry, data: dict[str, Any]) -> None:
        name, header = data["file"]["name"], data["dicom"] or {}
        if name not in self.files or self.files[name][FILE.sha256] != data["file"]["sha256"]:
            return
        for column, keyword in _FOUND:
            if self.study[column] is None:
                self.study[column] = _text(header.get(keyword))
        self._read_again(name, header, data.get("dicom_error"))

    def _read_again(self, name: str, header: dict[str, Any], error: str | None) -> None:
        """A file's header takes the place of what was known of it. What a message said goes on to stand in where it has to."""
        row = self.files[name]
        before = row.copy()
        self._take(row, header, error)
        row[FILE.sop_conflict] = 0  # judged again, by the instance that it is now
        if error is not None or row[FILE.study_instance_uid] is None:
            _stand_in(row, dict(zip(COLUMNS["files"], before, strict=True)))
        self.before.setdefault(name, before)
        self.changed_files.add(name)

    def _status_sent(self, _: Entry, data: dict[str, Any]) -> None:
        self.study[STUDY.status_sent] = data["status"]
        if self.study[STUDY.state] == _ARCHIVED:
            self.study[STUDY.last_error] = None

    def _restored(self, entry: Entry, data: dict[str, Any]) -> None:
        self._placed_anew(data["file"]["name"], placed=entry.position, fixity="intact", verified_at=entry.recorded_at)

    def _in_trouble(self, _: Entry, data: dict[str, Any]) -> None:
        self.study[STUDY.last_error] = data["code"]

    def _placed_anew(self, name: str, placed: int, fixity: str, verified_at: str | None) -> None:
        if (row := self.files.get(name)) is not None:
            row[FILE.placed], row[FILE.fixity], row[FILE.verified_at] = placed, fixity, verified_at
            self.changed_files.add(name)

    # `released` and `discarded` say nothing of the study but the state of an upload.
    _SAYS: ClassVar[dict[str, Callable[[StudyRows, Entry, dict[str, Any]], None]]] = {
        Kind.DESCRIBED: _described,
        Kind.ARCHIVED: _archived,
        Kind.STATUS_SENT: _status_sent,
        Kind.RESTORED: _restored,
        Kind.HEADER_READ: _header_read,
        Kind.FAILED: _in_trouble,
        Kind.QUARANTINED: _in_trouble,
    }


def _said_by(metadata: dict[str, Any]) -> dict[str, str | None]:
    """Patient and study UID of a message, by column."""
    return {name: _text((metadata.get(group) or {}).get(key)) for name, (group, key, _) in DESCRIPTIVE.items() if name in IDENTITY}


def _stand_in(row: Row, instead: dict[str, Any]) -> None:
    """Fill a file's row where its header does not say whose it is, or of which study.

    Name, ID, birth date and sex are all of the header, or none of them: a patient is never put together from two sources.
    """
    if row[FILE.patient_id] is None and row[FILE.patient_name] is None and (instead["patient_id"] or instead["patient_name"]):
        for name in PATIENT:
            row[getattr(FILE, name)] = instead[name]
    if row[FILE.study_instance_uid] is None and instead["study_instance_uid"]:
        row[FILE.study_instance_uid] = instead["study_instance_uid"]
        for name, _ in _OTHERS:
            if row[getattr(FILE, name)] is None:
                row[getattr(FILE, name)] = instead[name]


def _text(value: Any) -> str | None:
    """A cell: text without NUL; lists joined by the backslash of DICOM PS3.5 §6.4; None for nothing."""
    if value.__class__ is str:
        if "\0" in value:
            value = value.replace("\0", "")
        return value.strip()[:MAX_TEXT] or None
    if value is None:
        return None
    if value in ([], {}):
        return None
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        value = "\\".join(str(item) for item in value)
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _number(value: Any) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < WHOLE else None
