"""The files and messages that every opponent gets: made once, copied into fresh folders for each run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.dicom import described, make_file  # noqa: E402

WARM_UP = 20
"""Studies that are archived before the clock starts."""


@dataclass(frozen=True, slots=True)
class Event:
    """One file and the message about it. The file's name in uploads is `name`."""

    name: str
    study_id: str
    message: dict[str, Any]
    text: str
    metadata: dict[str, Any]


class Stock:
    """`studies` pipeline studies of `files` DICOM files of `kilobytes` each, and some to warm up with. Every SOPInstanceUID is unique."""

    def __init__(self, folder: Path, studies: int, files: int, kilobytes: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.kilobytes, self.files = folder, kilobytes, files
        self._side = int((kilobytes * 1024 / 2) ** 0.5)
        self._made = 0
        self.warm_up = [self._event(f"warm-{i:05d}", f"warm-{i:05d}.dcm", f"1.2.826.0.1.9.{i}") for i in range(WARM_UP)]
        self.events = [
            self._event(study, f"{study}.dcm" if files == 1 else f"{study}-{number:02d}.dcm", f"1.2.826.0.1.8.{i}")
            for i, study in enumerate(f"study-{i:05d}" for i in range(studies))
            for number in range(files)
        ]

    def _event(self, study_id: str, name: str, uid: str) -> Event:
        self._made += 1
        path = self.folder / name
        dataset = make_file(path, rows=self._side, columns=self._side, seed=self._made, study_uid=uid, series_uid=f"{uid}.1",
                            patient_id=f"P{uid.rpartition('.')[2]}")  # fmt: skip
        message = described(study_id, f"/app/uploads/{name}", dataset)
        return Event(name, study_id, message, json.dumps(message), {**message["metadata"], "study_id": study_id})

    def remove(self) -> None:
        shutil.rmtree(self.folder)


@dataclass(slots=True)
class Work:
    """One run: uploads full of fresh files, an empty archive, an empty folder for a ledger or an index; on disk before the run begins."""

    stock: Stock
    root: Path
    uploads: Path
    archive: Path = field(init=False)
    ledger: Path = field(init=False)

    def __post_init__(self) -> None:
        self.archive, self.ledger = self.root / "archive", self.root / "ledger"
        for folder in (self.uploads, self.archive, self.ledger):
            folder.mkdir(parents=True)
        for event in self.stock.warm_up + self.stock.events:
            shutil.copyfile(self.stock.folder / event.name, self.uploads / event.name)
        os.sync()  # what was made is not what is measured

    def remove(self) -> None:
        shutil.rmtree(self.uploads)
        shutil.rmtree(self.root)
