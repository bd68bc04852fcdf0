"""Make a large ledger quickly, with entries as the service would write them: real payloads, hashes, versions, causes.

Rows are inserted in bulk, with the ledger's triggers active. The content resembles a year of a small hospital's pipeline: mostly
one file a study, some with several; redeliveries within seconds and weeks later; failures, quarantine, discards, rejections, outages.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import heapq
import marshal
import multiprocessing
import random
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from storage_ledger import __version__
from storage_ledger.domain import canonical_json, work_queue
from storage_ledger.domain.entries import CURRENT_SCHEMA, Kind, NewEntry
from storage_ledger.domain.ids import rfc3339, uuid7
from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.migrate import migrate
from storage_ledger.system.sqlite import sqlite

BATCH = 20_000
CACHE_KIB = 2 << 20
SECONDS_A_STUDY = 60.0
YEAR_S = 365 * 86_400.0
ENTRIES_A_STUDY = 3.4
BEGAN = datetime(2025, 10, 1, tzinfo=UTC)
FAMILIES = ("MÜLLER", "SMITH", "GARCIA", "NOVÁK", "ØSTERGAARD", "TANAKA", "ROSSI", "DUBOIS", "O'BRIEN", "YILMAZ", "ΠΑΠΑΔΟΠΟΥΛΟΣ")
GIVEN = ("ANNA", "JOSÉ", "LI", "MARIA", "PAUL", "SOFIA", "TOM", "EVA", "ŁUKASZ", "ZOË")
PLACES = ("General Hospital", "Städtische Klinik", "Clínica del Sur", "Radiology Partners West")
SORTS = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2", ["CHEST", "ABDOMEN", "HEAD"], 512, 60),
    "MR": ("1.2.840.10008.5.1.4.1.1.4", ["KNEE", "BRAIN", "SPINE"], 256, 40),
    "CR": ("1.2.840.10008.5.1.4.1.1.1", ["CHEST", "HAND"], 2048, 2),
    "US": ("1.2.840.10008.5.1.4.1.1.6.1", ["ABDOMEN"], 600, 8),
}

ENTRIES = f"INSERT INTO entries VALUES ({', '.join('?' * 12)})"
PENDING = "INSERT INTO pending VALUES (?, ?, ?, ?)"
METADATA_SYNCED = "UPDATE meta SET value = ? WHERE name = 'metadata_synced'"

Row = tuple[Any, ...]
Insert = Callable[[str, list[Row]], None]
Story = Generator[tuple[float, NewEntry], int]


def make(path: Path, count: int, seed: int = 0, batch: int = BATCH) -> int:
    """Write `count` entries into a new ledger, and return of how many studies; only read-backs of the last statuses are still pending.

    Above one batch, a second process inserts them. There is no journal until the end: if this is interrupted, delete the file.
    """
    migrate(path)
    studies = 0
    with contextlib.ExitStack() as stack:
        insert = stack.enter_context(_inserting(path) if count <= batch else _inserting_in_a_process(path))
        for sql, rows in _batches(count, seed, batch):
            insert(sql, rows)
            studies += sum(row[3] == 1 for row in rows) if sql == ENTRIES else 0
    return studies


def _batches(count: int, seed: int, batch: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield statements and their rows: those of the entries first, then those of the work queue and of what is known of the archive."""
    rows: list[Row] = []
    pending: dict[int, Stage] = {}  # an entry has one work item at most, but for the removal of its upload, which is done
    for row, changes in _rows(count, seed):
        position = row[0]
        rows.append(row)
        for done, _ in changes.drop:
            pending.pop(done, None)
        for stage in changes.add:
            if stage is not Stage.REMOVE:
                pending[position] = stage
        if pending.get(position - 1000) is Stage.CONFIRM:
            del pending[position - 1000]
        if len(rows) == batch:
            yield ENTRIES, rows
            rows = []
    yield ENTRIES, rows
    yield PENDING, [(position, stage.value, rfc3339(BEGAN), 0) for position, stage in pending.items()]
    yield METADATA_SYNCED, [(str(count),)]


@contextlib.contextmanager
def _inserting(path: Path) -> Iterator[Insert]:
    """Yield what inserts rows, in one transaction a call."""
    with contextlib.closing(sqlite.connect(path, isolation_level=None)) as connection:
        [(mode,)] = connection.execute("PRAGMA journal_mode").fetchall()
        for pragma in ("synchronous = OFF", "journal_mode = OFF", f"cache_size = -{CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}")

        def insert(sql: str, rows: list[Row]) -> None:
            connection.execute("BEGIN")
            connection.executemany(sql, rows)
            connection.execute("COMMIT")

        yield insert
        connection.execute(f"PRAGMA journal_mode = {mode}")


@contextlib.contextmanager
def _inserting_in_a_process(path: Path) -> Iterator[Insert]:
    """Yield what sends rows to a process that inserts them, while the caller makes the next ones."""
    spawning = multiprocessing.get_context("spawn")
    there, here = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_insert_received, args=(path, there))
    process.start()
    there.close()
    with contextlib.closing(here):
        yield lambda sql, rows: here.send_bytes(marshal.dumps((sql, rows)))
    process.join()
    assert process.exitcode == 0, "the process that inserts failed"


def _insert_received(path: Path, batches: Connection) -> None:
    with _inserting(path) as insert, contextlib.suppress(EOFError):
        while True:
            insert(*marshal.loads(batches.recv_bytes()))  # noqa: S302 - from the process that started this one


def _rows(count: int, seed: int) -> Iterator[tuple[Row, work_queue.Changes]]:
    """Yield the rows of overlapping stories, ordered by time; each story is sent the positions of its entries."""
    chance = random.Random(seed)
    hospital = Hospital(chance)
    running: list[tuple[float, int, int, Story, NewEntry]] = []
    began, number, position = 0.0, 0, 0
    apart_s = min(SECONDS_A_STUDY, YEAR_S * ENTRIES_A_STUDY / count)  # no entry may be newer than today
    while position < count:
        if not running or running[0][0] > began:
            story = hospital.story()
            after, new = next(story)
            heapq.heappush(running, (began + after, number, 1, story, new))
            number += 1
            began += chance.expovariate(1 / apart_s)
            continue
        at, key, version, story, new = running[0]
        position += 1
        yield _sealed(new, position, None if new.study_id is None else version, at, chance), work_queue.changes(new)
        try:
            after, new = story.send(position)
        except StopIteration:
            heapq.heappop(running)
        else:
            heapq.heapreplace(running, (at + after, key, version + 1, story, new))


def _sealed(new: NewEntry, position: int, version: int | None, at: float, chance: random.Random) -> Row:
    payload = _encode(new.payload)
    noise = chance.randbytes(26)
    salt = noise[10:]
    moment = BEGAN + timedelta(seconds=at)
    entry_id = uuid7(int(moment.timestamp() * 1000), noise)
    recorded_at, kind, study_id, cause = rfc3339(moment), new.kind.value, new.study_id, new.cause
    digest = canonical_json.payload_sha256(salt, payload)
    header = canonical_json.header_of(cause, entry_id, kind, digest, position, recorded_at, CURRENT_SCHEMA, study_id, version)
    return (position, entry_id, study_id, version, kind, CURRENT_SCHEMA, recorded_at, cause, payload.decode(), digest, salt,
            canonical_json.leaf_hash_of(header))  # fmt: skip


_encode = msgspec.json.Encoder(order="sorted").encode  # for these payloads the same bytes as `canonical_json.dumps`, in a fifth of the time


class Hospital:
    """Makes the stories of pipeline studies, which share patients, DICOM studies and series."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._left = 0
        self._uid = ""
        self._header: dict = {}
        self._message = msgspec.Raw(b"{}")
        self._instance = 0

    def story(self) -> Story:
        """Yield the entries of one pipeline study, each with the seconds since the one before."""
        chance, lot = self._chance, self._chance.random()
        if lot < 0.01:
            raw = b'{"study_id": "' + b"x" * chance.randrange(20, 2000)
            reason = {"reason": "not-json", "detail": "not JSON at line 1, column 15", "source": "pubsub", "bytes": len(raw)}
            yield 0.0, NewEntry(Kind.REJECTED, {**reason, "raw_sha256": _sha256(raw), "raw": base64.b64encode(raw).decode()})
            return
        if lot < 0.0101:
            cause = yield 0.0, NewEntry(Kind.FAILED, {"step": "tell", "code": "status-service-away", **_failed(5)})
            yield 90.0, NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"}, cause=cause)
            return
        study_id = f"{chance.getrandbits(128):032x}"
        study_id = "-".join((study_id[:8], study_id[8:12], "4" + study_id[13:16], "a" + study_id[17:20], study_id[20:]))
        files = chance.randrange(2, 7) if lot > 0.95 else 1
        events = [self._file(study_id, name, files) for name in range(files)]
        yield from self._archiving(study_id, events, 0.0, "copied", outcome=lot)
        if lot > 0.90:  # redelivered within seconds or after weeks
            yield from self._archiving(study_id, events[:1], chance.choice([5.0, 3600.0, 30 * 86_400.0]), "already-there", outcome=1.0)

    def _archiving(self, study_id: str, events: list[tuple[dict, dict]], after: float, placement: str, outcome: float) -> Story:
        tells = []
        for described, archived in events:
            said = yield after, NewEntry(Kind.DESCRIBED, described, study_id)
            after, path = 0.02, {"upload_path": described["upload_path"]}
            if outcome < 0.03:
                yield 0.5, NewEntry(Kind.FAILED, {"step": "place", "code": "archive-io", **_failed(1), **path}, study_id, said)
            if outcome < 0.018:
                why = {"code": "upload-missing", "detail": "no such file in uploads"}
                last = yield 300.0, NewEntry(Kind.QUARANTINED, {**why, **path, "by": "projector"}, study_id, said)
                tells.append(last)
                if outcome > 0.0105:
                    word = {**path, "code": "upload-missing", "by": "J. Doe", "reason": "sent again under another id"}
                    tells.append((yield 7200.0, NewEntry(Kind.DISCARDED, word, study_id, last)))
                continue
            tells.append((yield 0.02, NewEntry(Kind.ARCHIVED, {**archived, "placement": placement}, study_id, said)))
        status = "failed" if outcome < 0.018 else "archived"
        told = {"status": status, "http_status": 200, "attempts": 1, "tells": tells}
        yield 0.02, NewEntry(Kind.STATUS_SENT, told, study_id, tells[-1])

    def _file(self, study_id: str, number: int, files: int) -> tuple[dict, dict]:
        if self._left <= 0:
            self._next_dicom_study()
        self._left -= 1
        self._instance += 1
        chance, header = self._chance, self._header
        path = f"{study_id}.dcm" if files == 1 else f"{study_id}/{number}.dcm"
        message = {
            "study_id": study_id,
            "file_path": f"/app/uploads/{path}",
            "metadata": self._message,
            "validation_details": {"is_valid": True},
        }
        digest = f"{chance.getrandbits(256):064x}"
        described = {"message": message, "source": "pubsub", "raw_sha256": digest[::-1], "upload_path": path}
        series = 1 + self._instance % 3
        dicom = {
            **header,
            "SOPInstanceUID": f"{self._uid}.{series}.{self._instance}",
            "SeriesInstanceUID": f"{self._uid}.{series}",
            "SeriesNumber": series,
            "InstanceNumber": self._instance,
        }
        name = path.rpartition("/")[2]
        archived = {
            "file": {"name": name, "original_name": name, "bytes": chance.randrange(100_000, 9_000_000), "sha256": digest},
            "metadata_sha256": digest[32:] + digest[:32],
            "dicom": dicom if chance.random() > 0.01 else None,
            "upload_path": path,
            "software": __version__,
            "host": "3f2a9c1b7d44",
        }
        if archived["dicom"] is None:
            archived["dicom_error"] = "not-dicom"
        return described, archived

    def _next_dicom_study(self) -> None:
        chance = self._chance
        modality = chance.choice(list(SORTS))
        sop_class, parts, side, most = SORTS[modality]
        self._left, self._instance = chance.randrange(1, most + 1), 0
        self._uid = f"1.2.826.0.1.3680043.8.498.{chance.getrandbits(96)}"
        day = (datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(5800))).strftime("%Y%m%d")
        part = chance.choice(parts)
        h = self._header = {
            "SpecificCharacterSet": "ISO_IR 192", "SOPClassUID": sop_class, "StudyInstanceUID": self._uid, "StudyDate": day,
            "StudyTime": f"{chance.randrange(240000):06d}", "AccessionNumber": f"A{chance.randrange(10**8):08d}",
            "ReferringPhysicianName": f"{chance.choice(FAMILIES)}^DR", "StudyID": str(chance.randrange(10**6)),
            "StudyDescription": f"{modality} {part} routine", "PatientName": f"{chance.choice(FAMILIES)}^{chance.choice(GIVEN)}",
            "PatientID": f"PAT{chance.randrange(200_000):07d}", "PatientBirthDate": f"{chance.randrange(1930, 2020)}0615",
            "PatientSex": chance.choice("FM"), "PatientAge": f"{chance.randrange(1, 99):03d}Y", "Modality": modality,
            "SeriesDescription": f"{part} axial", "SeriesDate": day, "BodyPartExamined": part, "ProtocolName": f"{part} std",
            "Manufacturer": "ACME Imaging", "ManufacturerModelName": "Model 7", "StationName": f"{modality}{chance.randrange(4)}",
            "InstitutionName": chance.choice(PLACES), "Rows": side, "Columns": side, "BitsAllocated": 16,
            "PhotometricInterpretation": "MONOCHROME2", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        }  # fmt: skip
        groups = {
            "patient_info": {"patient_id": h["PatientID"], "patient_name": h["PatientName"], "patient_birth_date": h["PatientBirthDate"],
                             "patient_sex": h["PatientSex"], "patient_age": h["PatientAge"]},
            "study_info": {"study_instance_uid": self._uid, "study_date": day, "study_time": h["StudyTime"],
                           "study_description": h["StudyDescription"], "accession_number": h["AccessionNumber"],
                           "study_id": h["StudyID"]},
            "modality_info": {"modality": modality, "manufacturer": h["Manufacturer"], "model_name": "Model 7",
                              "station_name": h["StationName"]},
            "exposure_info": {"exposure_time": "500", "exposure_mas": "120", "kvp": "120"},
            "location_info": {"institution_name": h["InstitutionName"], "institution_address": "1 Main Street",
                              "department_name": "Radiology"},
        }  # fmt: skip
        self._message = msgspec.Raw(_encode(groups))


def _failed(attempt: int) -> dict:
    return {"detail": "Input/output error", "errno": 5, "attempt": attempt, "retry_at": rfc3339(BEGAN)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
