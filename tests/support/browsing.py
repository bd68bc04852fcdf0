"""A varied archive, made by the real parts, and `storage-ledger browse` on it in its own process."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.dicom import described, make_file
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline
from tests.support.waiting import until
from tests.support.warm import shared

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">^EVE"
CT, MR, JAPANESE, EVIL, TWINS, FOUND, ANNOUNCED = (f"1.2.826.0.1.3680043.8.498.{number}" for number in range(1, 8))
PASSWORD = "correct horse ✓"  # noqa: S105 - used in these tests only


def make_archive(folder: Path) -> Path:
    """Make an archive and return `folder`: a CT of six slices, an MR of two series, patient names in other scripts and hostile
    ones, a file that never arrived, a message that was not an event, two files with the same SOP Instance UID, and a file of a
    different study than its message says."""
    pipeline = Pipeline(folder, Ledgers(folder), grace_s=0)
    pipeline.clock.now = datetime.now(UTC) - timedelta(minutes=5)
    files = 0

    def bring(study_id: str, study_uid: str, series: int = 1, number: int = 1, **elements: str) -> None:
        nonlocal files
        files += 1
        path = pipeline.uploads / f"{study_id}.dcm"
        announced = elements.pop("announced", study_uid)
        about = {"series_uid": f"{study_uid}.{series}", "sop_uid": f"{study_uid}.{series}.{number}", "rows": 64, "columns": 64, **elements}
        made = make_file(path, study_uid=study_uid, seed=files, SeriesNumber=series, InstanceNumber=number, **about)
        made.StudyInstanceUID = announced
        pipeline.deliver(json.dumps(described(study_id, path.name, made)).encode())

    for number in range(1, 7):
        bring(
            f"ct-{number}",
            CT,
            1,
            number,
            patient_name="DOE^JANE",
            patient_id="P-1",
            StudyDescription="CT chest",
            SeriesDescription="Axial",
            RescaleSlope="1",
            RescaleIntercept="-1024",
        )
    for series in (1, 2):
        bring(f"mr-{series}", MR, series, patient_name="MÜLLER^JÖRG", patient_id="P-2", modality="MR", StudyDescription="MR head")
    bring("jp-1", JAPANESE, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", patient_id="P-3", StudyDescription="CT spine")
    bring(
        "evil-1",
        EVIL,
        patient_name=HOSTILE,
        patient_id="<b>P-4</b>",
        StudyDescription="'\"><svg onload=alert(1)>",
        InstitutionName="</title><i>x",
    )
    for twin in ("a", "b"):
        bring(f"twin-{twin}", TWINS, patient_name="TWIN^TOM", patient_id="P-5", sop_uid=f"{TWINS}.9")
    bring("found-1", FOUND, announced=ANNOUNCED, patient_name="LOST^LEO", patient_id="P-6")
    pipeline.deliver(
        json.dumps(described("gone-1", "gone-1.dcm", {"PatientName": "GONE^GUS", "PatientID": "P-7"})).encode(), b"no JSON at all"
    )
    pipeline.archive_all()
    return folder


class Browse:
    """`storage-ledger browse` on an archive of `make_archive`, on a free port, forked from a warm process; ready once constructed."""

    def __init__(self, folder: Path, log: Path, *arguments: str, **environment: str) -> None:
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BROWSE_")}
        ours = {"LEDGER_PATH": str(folder / "ledger"), "ARCHIVE_PATH": str(folder / "archive"), "BROWSE_WORKERS": "1"}
        log.write_bytes(b"")
        self._process = shared("browse").start(
            {**inherited, **ours, **environment}, log, log.parent, "storage-ledger", "browse", "--port", "0", *arguments
        )
        try:
            until(lambda: "Browse on http" in self.said() or self._process.poll() is not None, 60, what="browse to listen")
        except AssertionError:
            self.stop()  # left open it would become a warning, hence an error, in some later test
            raise
        found = re.search(r"Browse on (http://127\.0\.0\.1:\d+)/", self.said())
        assert found, self.said()
        self.url = found[1]

    def said(self) -> str:
        """Return everything that it wrote."""
        return self._log.read_text()

    def stop(self) -> None:
        """End it and wait for that."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


@functools.cache
def hash_of(password: str) -> str:
    """Return what `browse --hash-password` prints."""
    command = [sys.executable, "-m", "storage_ledger", "browse", "--hash-password"]
    done = subprocess.run(command, input=password + "\n", capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
