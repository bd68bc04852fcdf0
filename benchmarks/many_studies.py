"""A ledger of many made-up DICOM studies, its index, and pixels for some of their files."""

from __future__ import annotations

import platform
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite

FAMILY = (
    "Adams",
    "Baker",
    "Clark",
    "Davis",
    "Evans",
    "Frank",
    "Ghosh",
    "Hills",
    "Jones",
    "Klein",
    "Lopez",
    "Mason",
    "Nolan",
    "Patel",
    "Tanaka",
)
GIVEN = ("Ada", "Bela", "Cleo", "Dana", "Eli", "Finn", "Gwen", "Hugo", "Iris", "Jude", "Kira", "Liam", "Mona", "Noah", "Olga", "Yuki")
PLACES = [f"Hospital {letter}" for letter in "ABCDEFGHIJKL"]
KINDS = ("CT", "MR", "US", "CR", "DX", "NM", "PT", "XA", "SR")

FILE_BYTES = 526_000
SLICES = 40
"""So many files of the first study have pixels."""


def make(folder: Path, studies: int) -> None:
    """A ledger of so many DICOM studies, and the index of it; the first of them has 300 files."""
    rng = random.Random(1)
    migrate(folder / "ledger.db")
    ledger = SqliteLedger(folder / "ledger.db")
    began = time.monotonic()
    batch: list[dict] = []
    files = 0
    for number in range(studies):
        for each in a_study(rng, number, 300 if number == 0 else max(1, round(rng.expovariate(1 / 2.5)))):
            batch.append(each)
            files += 1
        if len(batch) >= 2000 or number == studies - 1:
            append(ledger, batch)
            batch = []
    print(f"{studies:,} studies, {files:,} files in the ledger after {time.monotonic() - began:.0f} s", flush=True)
    index = Index(folder / "index.db", ledger)
    began = time.monotonic()
    index.rebuild()
    print(f"index made in {time.monotonic() - began:.0f} s, {(folder / 'index.db').stat().st_size / 1e6:.0f} MB", flush=True)
    index.close()
    ledger.close()


def examples(folder: Path) -> dict[str, Any]:
    """How much there is in the index below `folder`, of whose pages to ask for, and what reads it."""
    connection = sqlite.connect(f"file:{folder / 'ledger' / 'index.db'}?mode=ro", uri=True)
    studies, files = connection.execute("SELECT count(*), sum(files) FROM dicom_studies").fetchone()
    big = connection.execute("SELECT study_instance_uid FROM dicom_studies ORDER BY files DESC LIMIT 1").fetchone()[0]
    usual = connection.execute("SELECT study_instance_uid FROM dicom_studies WHERE files = 3 LIMIT 1").fetchone()[0]
    study_id = connection.execute("SELECT study_id FROM files WHERE study_instance_uid = ? LIMIT 1", (usual,)).fetchone()[0]
    connection.close()
    return {"studies": studies, "files": files, "big": big, "usual": usual, "study_id": study_id,
            "read_by": f"SQLite {sqlite.sqlite_version}, Python {platform.python_version()}"}  # fmt: skip


def a_study(rng: random.Random, number: int, files: int):
    modality = "CT" if number == 0 else rng.choice(KINDS)
    uid = f"1.2.826.0.1.{number}"
    about = {
        "StudyInstanceUID": uid, "PatientName": f"{rng.choice(FAMILY)}^{rng.choice(GIVEN)}",
        "PatientID": f"P{rng.randrange(50_000):06d}",
        "PatientBirthDate": f"{rng.randrange(1930, 2020)}0{rng.randrange(1, 10)}15", "PatientSex": rng.choice("FM"),
        "StudyDate": f"{rng.randrange(2015, 2027)}0{rng.randrange(1, 10)}1{rng.randrange(10)}", "StudyTime": "101500",
        "StudyDescription": f"{modality} {rng.choice(['chest', 'head', 'knee', 'abdomen', 'spine'])}", "AccessionNumber": f"A{number:07d}",
        "Modality": modality, "InstitutionName": rng.choice(PLACES), "Manufacturer": "ACME",
    }  # fmt: skip
    for at in range(files):
        series = 1 + at // 150
        study_id = f"{number:06d}-{at:04d}"
        yield {
            **about, "study_id": study_id, "SeriesInstanceUID": f"{uid}.{series}", "SeriesNumber": series,
            "SOPInstanceUID": f"{uid}.{series}.{at}", "InstanceNumber": at + 1, "Rows": 512, "Columns": 512,
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        }  # fmt: skip


def append(ledger: SqliteLedger, batch: list[dict]) -> None:
    with ledger.write() as tx:
        for each in batch:
            study_id, name = each["study_id"], f"{each['study_id']}.dcm"
            header = {key: value for key, value in each.items() if key != "study_id"}
            metadata = {"patient_info": {"patient_name": each["PatientName"], "patient_id": each["PatientID"]},
                        "study_info": {"study_instance_uid": each["StudyInstanceUID"], "study_date": each["StudyDate"]},
                        "modality_info": {"modality": each["Modality"]}}  # fmt: skip
            message = {"study_id": study_id, "file_path": f"/app/uploads/{name}", "metadata": metadata}
            payload = {"message": message, "source": "pubsub", "raw_sha256": "0" * 64, "upload_path": name}
            described = tx.append(NewEntry(Kind.DESCRIBED, payload, study_id))
            if each["InstanceNumber"] == 1 and each["StudyInstanceUID"].endswith("77"):
                code = {"code": "upload-missing", "detail": "no such file", "upload_path": name, "by": "projector"}
                tx.append(NewEntry(Kind.QUARANTINED, code, study_id, described.position))
                continue
            file = {"name": name, "original_name": name, "bytes": FILE_BYTES, "sha256": f"{described.position:064x}"}
            payload = {"file": file, "placement": "copied", "metadata_sha256": "b" * 64, "dicom": header, "upload_path": name}
            tx.append(NewEntry(Kind.ARCHIVED, payload | {"software": "0", "host": "h"}, study_id, described.position))


def slices(folder: Path) -> None:
    """CT slices for the first files of the large study; of the size that the ledger says, and other pixels each."""
    for at in range(SLICES):
        study_id = f"000000-{at:04d}"
        place = folder / "archive" / study_id
        path = place / f"{study_id}.dcm"
        if path.exists() and path.stat().st_size == FILE_BYTES:
            continue  # a stack that is filled already
        place.mkdir(parents=True, exist_ok=True)
        each = Dataset()
        each.SOPClassUID, each.SOPInstanceUID, each.Modality = "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.0.1.{at}", "CT"
        each.Rows = each.Columns = 512
        each.SamplesPerPixel, each.PhotometricInterpretation, each.PixelRepresentation = 1, "MONOCHROME2", 1
        each.BitsAllocated, each.BitsStored, each.HighBit = 16, 12, 11
        each.RescaleSlope, each.RescaleIntercept, each.WindowCenter, each.WindowWidth = 1, 0, 40, 400
        rng = np.random.default_rng(at)
        smooth = np.add.outer(np.linspace(-900, 900, 512), np.linspace(-100, 100, 512))
        each.PixelData = (smooth + rng.normal(0, 20, (512, 512))).astype("<i2").tobytes()
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        each.save_as(path, enforce_file_format=True)
        missing = FILE_BYTES - path.stat().st_size - 12
        each.add_new(0xFFFCFFFC, "OB", bytes(missing))  # trailing padding
        each.save_as(path, enforce_file_format=True)
        assert path.stat().st_size == FILE_BYTES
