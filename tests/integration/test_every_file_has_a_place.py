"""Any DICOM file, however odd, is archived, and can be found on the web pages."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import warnings

import pydicom
import pytest

from tests.support.dicom import described, testdata_files
from tests.support.stack import Stack
from tests.support.waiting import until

# The pages in the order a user would try: among the studies, or listed with the reason why not.
PLACES = """
SELECT f.study_id, d.study_instance_uid IS NOT NULL, f.dicom_error
FROM files f LEFT JOIN dicom_studies d USING (study_instance_uid)"""


@pytest.fixture
def stack(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url)
    yield stack
    stack.close()


def message(study_id, path):
    """Make the message as the descriptor does: empty groups and an error if pydicom reads nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):
            return described(study_id, f"{study_id}.dcm", pydicom.dcmread(path, stop_before_pixels=True))
    return described(study_id, f"{study_id}.dcm", {}) | {"metadata": {"error": "could not be read"}}


def test_every_file_of_pydicoms_wheel_is_among_the_studies_or_listed_with_a_reason(stack):
    stack.start()
    sent = {}
    for number, path in enumerate(testdata_files()):
        study_id = f"F{number}"
        sent[study_id] = path.name
        shutil.copy(path, stack.uploads / f"{study_id}.dcm")
        stack.publish(message(study_id, path))
    until(stack.idle, 120)
    with contextlib.closing(sqlite3.connect(stack.ledger / "index.db")) as index:
        until(lambda: index.execute("SELECT count(*) FROM files").fetchone()[0] == len(sent), 60)
        found = {study_id: (among, reason) for study_id, among, reason in index.execute(PLACES)}
    assert found.keys() == sent.keys()
    assert [sent[study_id] for study_id, (among, reason) in found.items() if not among and reason is None] == []
    assert sum(among for among, _ in found.values()) > len(sent) / 2
    assert {reason for among, reason in found.values() if not among} <= {"no-study-uid", "not-dicom", "header-cut", "header-unreadable"}
    assert stack.stop() == 0
