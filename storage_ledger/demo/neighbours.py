"""Simulates the gateway, which writes files to uploads, and the descriptor, which publishes messages and sends statuses.

Content and order follow the pipeline's wire contract: the descriptor publishes first and sends its status afterwards,
sometimes so late that it overwrites the storage service's status.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
import redis
from pydicom.dataset import Dataset

from storage_ledger.demo.dicom_files import Case, DemoUpload
from storage_ledger.pipeline.status_client import StatusClient

CHANNEL = "described"
MALFORMED = b'{"study_id": "5d1f0c52-77a4-4f0e-9c39-0b6f5a2b7c11", "file_path": "/app/upl'
"""A truncated message: nothing in it can be trusted, not even its study_id."""

LATE_S = 0.5
EVERY_LATE = 6

_GROUPS: Mapping[str, Mapping[str, str]] = {
    "patient_info": {
        "patient_id": "PatientID", "patient_name": "PatientName", "patient_birth_date": "PatientBirthDate",
        "patient_sex": "PatientSex", "patient_age": "PatientAge",
    },
    "study_info": {
        "study_instance_uid": "StudyInstanceUID", "study_date": "StudyDate", "study_time": "StudyTime",
        "study_description": "StudyDescription", "accession_number": "AccessionNumber", "study_id": "StudyID",
    },
    "modality_info": {
        "modality": "Modality", "manufacturer": "Manufacturer", "model_name": "ManufacturerModelName",
        "station_name": "StationName",
    },
    "exposure_info": {
        "exposure_time": "ExposureTime", "exposure_mas": "Exposure", "kvp": "KVP",
        "repetition_time": "RepetitionTime", "echo_time": "EchoTime",
    },
    "location_info": {
        "institution_name": "InstitutionName", "institution_address": "InstitutionAddress",
        "department_name": "InstitutionalDepartmentName", "performing_physician": "PerformingPhysicianName",
        "reading_physician": "NameOfPhysiciansReadingStudy",
    },
}  # fmt: skip


class Neighbours:
    """Sends all uploads in its own thread.

    `spoken`: studies for which the descriptor will send no further status. `failure`: the error that ended the thread, if any.
    """

    def __init__(self, uploads: Sequence[DemoUpload], folder: Path, redis_url: str, client: StatusClient) -> None:
        self._uploads = uploads
        self._folder = folder
        self._client = client
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=10, protocol=2, retry=None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbours", daemon=True)
        self._last_words: deque[tuple[float, str, dict[str, Any]]] = deque()
        self._messages: dict[str, bytes] = {}
        self._words_left = Counter(upload.study_id for upload in uploads)
        self.spoken: set[str] = set()
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread. Returns immediately."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. May be called twice, and without `start`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._redis.close()

    def redeliver(self, study_id: str) -> None:
        """Publish the study's message again, byte for byte."""
        self._publish(self._messages[study_id])

    def _run(self) -> None:
        try:
            for number, upload in enumerate(self._uploads):
                if self._stop.is_set():
                    return
                if number == 8:
                    self._publish(MALFORMED)
                self._send(upload, late_s=LATE_S if number % EVERY_LATE == 3 else 0.0)
                self._send_due_statuses(time.monotonic())
            while self._last_words and not self._stop.wait(0.02):
                self._send_due_statuses(time.monotonic())
        except Exception as error:  # noqa: BLE001 - the main thread shows it and ends the demo
            self.failure = error

    def _send(self, upload: DemoUpload, *, late_s: float) -> None:
        if upload.case is not Case.MISSING:
            (self._folder / upload.name).write_bytes(upload.data)
        metadata = _describe(upload.data)
        message = {
            "study_id": upload.study_id,
            "file_path": f"/app/uploads/{upload.name}",  # the volume's path in the neighbours' containers
            "metadata": metadata,
            "validation_details": {"is_valid": True},
        }
        data = json.dumps(message, ensure_ascii=False).encode()
        self._messages[upload.study_id] = data
        self._publish(data)
        self._last_words.append((time.monotonic() + late_s, upload.study_id, metadata))

    def _publish(self, data: bytes) -> None:
        if not self._redis.publish(CHANNEL, data):
            raise ConnectionError("the channel has no subscriber")

    def _send_due_statuses(self, now: float) -> None:
        for _ in range(len(self._last_words)):
            due, study_id, metadata = word = self._last_words.popleft()
            if due > now:
                self._last_words.append(word)
            else:
                self._client.tell(study_id, "described", metadata)
                self._words_left[study_id] -= 1
                if not self._words_left[study_id]:
                    self.spoken.add(study_id)


def _describe(data: bytes) -> dict[str, Any]:
    """Return the five metadata groups. If the file cannot be read they are empty, and `error` says why."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        return {group: _texts(dataset, names) for group, names in _GROUPS.items()}
    except Exception as error:  # noqa: BLE001 - for a corrupt file pydicom raises any exception
        return {**{group: {} for group in _GROUPS}, "error": f"Failed to extract metadata: {error}"}


def _texts(dataset: Dataset, names: Mapping[str, str]) -> dict[str, str]:
    return {name: str(dataset[keyword].value) for name, keyword in names.items() if keyword in dataset and dataset[keyword].value}
