"""Where each column is in a row that is held in memory: `row[FILE.sha256]`.

A row is a plain list of values in the order of its table's columns, and a column is an index into it: a rebuild reads millions of
them. The column classes are for mypy: they tell it which columns a table has, and the type of each value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from storage_ledger.index.schema import COLUMNS

Table = TypeVar("Table")
Value = TypeVar("Value")

if TYPE_CHECKING:

    class Column(int, Generic[Table, Value]):
        """A column of a table, with the type of its values."""

    class Row(list[Any], Generic[Table]):
        """The values of one row of a table."""

        def __getitem__(self, column: Column[Table, Value]) -> Value: ...  # type: ignore[override]
        def __setitem__(self, column: Column[Table, Value], value: Value) -> None: ...  # type: ignore[override]
        def copy(self) -> Self: ...  # noqa: D102 - a list's

    StudyColumn = Column["StudyColumns", Value]
    UploadColumn = Column["UploadColumns", Value]
    FileColumn = Column["FileColumns", Value]
    StudyRow = Row["StudyColumns"]
    UploadRow = Row["UploadColumns"]
    FileRow = Row["FileColumns"]
else:
    Column = StudyColumn = UploadColumn = FileColumn = int
    Row = StudyRow = UploadRow = FileRow = list


@dataclass(frozen=True, slots=True)
class StudyColumns:
    """The columns of `studies`."""

    study_id: StudyColumn[str]
    patient_name: StudyColumn[str | None]
    patient_id: StudyColumn[str | None]
    study_date: StudyColumn[str | None]
    modality: StudyColumn[str | None]
    study_description: StudyColumn[str | None]
    state: StudyColumn[str]
    status_sent: StudyColumn[str | None]
    files: StudyColumn[int]
    bytes: StudyColumn[int]
    archived_at: StudyColumn[str | None]
    last_error: StudyColumn[str | None]
    institution_name: StudyColumn[str | None]
    accession_number: StudyColumn[str | None]
    patient_birth_date: StudyColumn[str | None]
    patient_sex: StudyColumn[str | None]
    study_time: StudyColumn[str | None]
    manufacturer: StudyColumn[str | None]
    described_at: StudyColumn[str | None]
    study_instance_uid: StudyColumn[str | None]
    first_position: StudyColumn[int]
    last_position: StudyColumn[int]
    year: StudyColumn[int | None]
    search_text: StudyColumn[str | None]


@dataclass(frozen=True, slots=True)
class UploadColumns:
    """The columns of `uploads`."""

    study_id: UploadColumn[str]
    upload_path: UploadColumn[str]
    state: UploadColumn[str]
    code: UploadColumn[str | None]
    position: UploadColumn[int]


@dataclass(frozen=True, slots=True)
class FileColumns:
    """The columns of `files`."""

    study_id: FileColumn[str]
    name: FileColumn[str]
    patient_name: FileColumn[str | None]
    patient_id: FileColumn[str | None]
    study_date: FileColumn[str | None]
    modality: FileColumn[str | None]
    study_description: FileColumn[str | None]
    series_number: FileColumn[int | None]
    series_description: FileColumn[str | None]
    instance_number: FileColumn[int | None]
    bytes: FileColumn[int]
    rows: FileColumn[int | None]
    columns: FileColumn[int | None]
    frames: FileColumn[int | None]
    body_part: FileColumn[str | None]
    archived_at: FileColumn[str]
    position: FileColumn[int]
    placed: FileColumn[int]
    fixity: FileColumn[str]
    verified_at: FileColumn[str | None]
    dicom_error: FileColumn[str | None]
    sop_conflict: FileColumn[int]
    study_uid_differs: FileColumn[int]
    patient_differs: FileColumn[int]
    message_differs: FileColumn[int]
    superseded: FileColumn[int]
    unconfirmed: FileColumn[int]
    described: FileColumn[int | None]
    announced: FileColumn[str | None]
    from_message: FileColumn[str | None]
    institution_name: FileColumn[str | None]
    accession_number: FileColumn[str | None]
    patient_birth_date: FileColumn[str | None]
    patient_sex: FileColumn[str | None]
    study_time: FileColumn[str | None]
    manufacturer: FileColumn[str | None]
    referring_physician_name: FileColumn[str | None]
    dicom_study_id: FileColumn[str | None]
    performed_date: FileColumn[str | None]
    performed_time: FileColumn[str | None]
    request_attributes: FileColumn[str | None]
    original_name: FileColumn[str]
    archive_path: FileColumn[str]
    sha256: FileColumn[str]
    study_instance_uid: FileColumn[str | None]
    series_instance_uid: FileColumn[str | None]
    sop_instance_uid: FileColumn[str | None]
    sop_class_uid: FileColumn[str | None]
    transfer_syntax_uid: FileColumn[str | None]


def _numbers(table: str) -> dict[str, Any]:
    return {column: number for number, column in enumerate(COLUMNS[table])}


# Fails at import if a class and its table have different columns.
STUDY = StudyColumns(**_numbers("studies"))
UPLOAD = UploadColumns(**_numbers("uploads"))
FILE = FileColumns(**_numbers("files"))
