"""Hands over what a DICOM storage SCP received: docs/how-to/receive-over-the-dicom-network.md says how to run it.

INCOMING_PATH/<any name>
├─ the Status Service gets `described`, with the metadata
├─ the file is copied to UPLOADS_PATH/<study_id>.dcm, and is on disk
├─ the message `described` is published
└─ the file is removed from INCOMING_PATH

Ending this program at any moment loses nothing: whatever is still in INCOMING_PATH is handed over at the next start, from the first
step. The study_id is made from the file's SHA-256, so that this is a redelivery of the same study, and so is a file that is sent twice.
Needs Python 3.11, pydicom and redis; the image of storage-ledger has them. One thread, Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import resource
import stat
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pydicom
import redis
from pydicom.multival import MultiValue

INCOMING = Path(os.environ.get("INCOMING_PATH") or "/app/incoming")
UPLOADS = Path(os.environ.get("UPLOADS_PATH") or "/app/uploads")
STATUS_URL = (os.environ.get("STATUS_SERVICE_URL") or "http://status-service:8003").rstrip("/")
REDIS_URL = os.environ.get("REDIS_URL") or "redis://redis:6379"
CHANNEL = os.environ.get("DESCRIBED_CHANNEL") or "described"
STREAM = os.environ.get("DESCRIBED_STREAM") or ""
QUIET_S = float(os.environ.get("QUIET_SECONDS") or 2)
"""A file must not have changed for this long: a moment after it closed it, an SCP removes a file that it could not receive to its end."""

LOOK_EVERY_S = 1.0
RETRY_AFTER_S = 5.0
TIMEOUT_S = 10.0
MOST_MEMORY = 2 << 30
LONGEST_VALUE = 4096
"""Characters of a value that are kept: a message may have a megabyte at most."""

GROUPS = {
    "patient_info": {
        "patient_id": "PatientID", "patient_name": "PatientName", "patient_birth_date": "PatientBirthDate", "patient_sex": "PatientSex",
        "patient_age": "PatientAge",
    },
    "study_info": {
        "study_instance_uid": "StudyInstanceUID", "study_date": "StudyDate", "study_time": "StudyTime",
        "study_description": "StudyDescription", "accession_number": "AccessionNumber", "study_id": "StudyID",
    },
    "modality_info": {
        "modality": "Modality", "manufacturer": "Manufacturer", "model_name": "ManufacturerModelName", "station_name": "StationName",
    },
    "exposure_info": {
        "exposure_time": "ExposureTime", "exposure_mas": "Exposure", "kvp": "KVP", "repetition_time": "RepetitionTime",
        "echo_time": "EchoTime",
    },
    "location_info": {
        "institution_name": "InstitutionName", "institution_address": "InstitutionAddress",
        "department_name": "InstitutionalDepartmentName", "performing_physician": "PerformingPhysicianName",
        "reading_physician": "NameOfPhysiciansReadingStudy",
    },
}  # fmt: skip


class Away(Exception):
    """A service does not answer, or uploads cannot be written: no file can be handed over now."""


def main() -> None:
    """Hand over files until the process is ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # a hostile header then fails alone
    server = redis.Redis.from_url(REDIS_URL, password=_password(), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, protocol=2)
    said: set[tuple[str, str]] = set()
    while True:
        pause_s = LOOK_EVERY_S
        for name in _oldest_first():
            try:
                problem = hand_over(name, server)
            except Away as error:
                say("waits", why=str(error))
                pause_s = RETRY_AFTER_S
                break
            except FileNotFoundError:  # the SCP removed it
                continue
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            if problem is not None and (name, problem) not in said:
                said.add((name, problem))
                say("left", file=name, why=problem)
        time.sleep(pause_s)


def hand_over(name: str, server: redis.Redis) -> str | None:
    """Hand over one file, unless it is still being written. Returns why it must stay. Raises `Away`, or the file's `OSError`."""
    if not stat.S_ISREG(os.lstat(INCOMING / name).st_mode):
        return "is not a regular file"
    with open(INCOMING / name, "rb", opener=_opener) as file:
        found = os.fstat(file.fileno())
        if is_being_written(file.fileno(), found):
            return None
        metadata = described(file)
        digest = digest_of(file)
        study_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"sha256:{digest}"))
        if status_of(study_id) != "archived":  # a duplicate must not hide that
            set_status(study_id, "described", metadata)
        upload = put_into_uploads(file, digest, f"{study_id}.dcm")
    if upload is None:
        return None  # looked at again
    message = {"study_id": study_id, "file_path": str(upload), "metadata": metadata, "validation_details": {"is_valid": True}}
    publish(server, json.dumps(message).encode())
    with contextlib.suppress(FileNotFoundError):
        (INCOMING / name).unlink()
    say("handed-over", study_id=study_id, bytes=found.st_size)
    return None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def is_being_written(descriptor: int, found: os.stat_result) -> bool:
    """Return whether somebody has the file open for writing, or wrote to it a moment ago."""
    if abs(time.time() - found.st_mtime) < QUIET_S:
        return True
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # refused while a process has it open for writing
    except BlockingIOError:
        return True
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def described(file: BufferedReader) -> dict[str, Any]:
    """Return the metadata of the message. If the header cannot be read, the five groups are empty, and `error` says so."""
    keywords = [keyword for names in GROUPS.values() for keyword in names.values()]
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", *keywords])
        return {group: dict(_values(dataset, names)) for group, names in GROUPS.items()}
    except Exception as error:  # noqa: BLE001 - whatever a file does to the parser, it was received, and is archived as it is
        return {**{group: {} for group in GROUPS}, "error": f"the header cannot be read ({type(error).__name__})"}


def _values(dataset: pydicom.Dataset, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, keyword in names.items():
        value = dataset.get(keyword)
        text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else "" if value is None else str(value)
        if text:
            yield name, text[:LONGEST_VALUE]


def digest_of(file: BufferedReader) -> str:
    """Return the SHA-256 of the whole file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def put_into_uploads(file: BufferedReader, digest: str, name: str) -> Path | None:
    """Copy the file to uploads and return its path there, once it is on disk. The name appears when the file is complete.

    None, and no name, if the file has been removed or no longer has this digest. Raises `Away`.
    """
    upload = UPLOADS / name
    temporary = UPLOADS / f".{name}.part"  # the next attempt's too, so that a killed one leaves nothing
    copied = hashlib.sha256()
    file.seek(0)
    try:
        with open(temporary, "wb") as copy:
            while piece := file.read(1 << 20):
                copied.update(piece)
                copy.write(piece)
            copy.flush()
            os.fsync(copy.fileno())
            os.fchmod(copy.fileno(), 0o640)
        if copied.hexdigest() != digest or os.fstat(file.fileno()).st_nlink == 0:
            temporary.unlink()
            return None
        temporary.rename(upload)
        folder = os.open(UPLOADS, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Away(f"uploads: {error.strerror}") from error
    return upload


def status_of(study_id: str) -> str | None:
    """Return the status word; None for a study that is not known. Raises `Away`."""
    try:
        return str(json.loads(_ask("GET", study_id))["status"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Away(f"the Status Service answers {error.code}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Away(f"the Status Service does not answer ({type(error).__name__})") from error


def set_status(study_id: str, word: str, details: dict[str, Any]) -> None:
    """Set the status, so that reconciliation finds the upload if its message is lost. Raises `Away`."""
    try:
        _ask("POST", study_id, json.dumps({"status": word, "details": details}).encode())
    except OSError as error:
        raise Away(f"the Status Service does not take a status ({type(error).__name__})") from error


def _ask(method: str, study_id: str, body: bytes | None = None) -> bytes:
    address = f"{STATUS_URL}/status/{study_id}"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - a setting
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read(1 << 20))


def publish(server: redis.Redis, message: bytes) -> None:
    """Publish the message. Nobody may hear it on the channel: reconciliation then finds the upload. Raises `Away`."""
    try:
        if STREAM:
            server.xadd(STREAM, {"data": message})
        else:
            server.publish(CHANNEL, message)
    except redis.RedisError as error:
        raise Away(f"Redis does not answer ({type(error).__name__})") from error


def _password() -> str | None:
    if password := os.environ.get("REDIS_PASSWORD"):
        return password
    path = os.environ.get("REDIS_PASSWORD_FILE")
    return (Path(path).read_text().rstrip("\r\n") or None) if path else None


def _oldest_first() -> list[str]:
    found = []
    for entry in os.scandir(INCOMING):
        with contextlib.suppress(FileNotFoundError):
            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [name for _, name in sorted(found)]


def say(event: str, **fields: object) -> None:
    """Write one line of JSON. Nothing of a patient is in it."""
    print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
