"""Finds the entries to prove: of a study, of a DICOM study, of the studies that hold a certain file, or a single one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LedgerUnusable, ProofError
from storage_ledger.index.queries import ask_files
from storage_ledger.ledger.contract import Ledger


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to prove: exactly one of these is set. `file`: any copy of an archived file."""

    study_id: str | None = None
    dicom_study: str | None = None
    position: int | None = None
    file: Path | None = None


def entries_of(wanted: Wanted, ledger: Ledger, index_file: Path) -> list[Entry]:
    """Return the entries in order; none if there is no such study, entry or archived file.

    DICOM studies and files are looked up in the index. Raises `LedgerUnusable` (`index-missing`) without one, and `ProofError`
    (`proof-file`) if the file cannot be read.
    """
    if wanted.position is not None:
        entry = ledger.get(wanted.position)
        return [] if entry is None else [entry]
    if wanted.dicom_study is not None:
        studies = _studies(ledger, index_file, "study_instance_uid", wanted.dicom_study)
    elif wanted.file is not None:
        studies = _studies(ledger, index_file, "sha256", _sha256(wanted.file))
    else:
        studies = [wanted.study_id or ""]
    return in_order(entry for study_id in studies for entry in ledger.study(study_id))


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries by position."""
    return sorted(entries, key=lambda entry: entry.position)


def _studies(ledger: Ledger, index_file: Path, column: str, value: str) -> list[str]:
    rows = ask_files(index_file, ledger, f"SELECT DISTINCT study_id FROM files WHERE {column} = ?", value)  # noqa: S608 - names of ours
    if rows is None:
        raise LedgerUnusable("index-missing", "index.db is needed and cannot be read: start `storage-ledger serve`, or name the study_id")
    return [row[0] for row in rows]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ProofError("proof-file", f"{path}: {os.strerror(error.errno or 0)}", errno=error.errno) from error
