"""Two patients where one was expected: how the web pages and `show` report it, from the real processes."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from tests.support.browsing import Browse
from tests.support.dicom import described, make_file
from tests.support.making import Ledgers, archived
from tests.support.making import described as described_payload
from tests.support.pipeline import Pipeline

MIXED, WRONG, PLAIN = (f"1.2.826.0.1.3680043.8.498.{number}" for number in (21, 22, 23))
SIDE_BY_SIDE = "Message: Rossi, Giulia, SGC-122138. File: Mueller, Kaethe, SGC-106969."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix-up")
    pipeline = Pipeline(folder, Ledgers(folder))

    def bring(study_id: str, uid: str, said: dict[str, Any] | None = None, **elements: Any) -> None:
        made = make_file(
            pipeline.uploads / f"{study_id}.dcm", study_uid=uid, seed=len(study_id), sop_uid=f"{uid}.{study_id[-1]}", **elements
        )
        message = described(study_id, f"{study_id}.dcm", made)
        message["metadata"]["patient_info"] |= said or {}
        pipeline.deliver(json.dumps(message).encode())

    bring(
        "wrong-1",
        WRONG,
        {"patient_name": "Rossi^Giulia", "patient_id": "SGC-122138"},
        patient_name="Mueller^Kaethe",
        patient_id="SGC-106969",
    )
    bring("mixed-1", MIXED, patient_name="NOTFALL^EINS", patient_id="TEMP0001")
    bring("mixed-2", MIXED, patient_name="LEHMANN^ANNA", patient_id="4711")
    bring("mixed-3", MIXED, patient_name="Lehmann^Anna^^", patient_id="4711")
    bring("plain-1", PLAIN)
    pipeline.finish()
    with pipeline.ledger.write() as tx:
        for more in ({}, {"supersedes": "a.dcm", "file": archived("b.dcm", content="whole")["file"]}, {"unconfirmed": True}):
            said = tx.append(NewEntry(Kind.DESCRIBED, described_payload(), "half-1"), work_item=False)
            tx.append(NewEntry(Kind.ARCHIVED, archived(content="half") | more, "half-1", said.position), work_item=False)
    index = Index(folder / "ledger" / "index.db", pipeline.ledger)
    index.ensure()
    index.close()
    pipeline.ledger.close()
    return folder


@pytest.fixture(scope="module")
def browse(folder: Path) -> Iterator[Browse]:
    opened = Browse(folder, folder / "browse.log", "--no-login")
    yield opened
    opened.stop()


def page(browse: Browse, path: str) -> str:
    """Return the visible text of a page in one line."""
    with urllib.request.urlopen(browse.url + path, timeout=30) as answer:  # noqa: S310 - of the test's own server
        body = answer.read().decode()
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())


def show(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"LEDGER_PATH": str(folder / "ledger"), "ARCHIVE_PATH": str(folder / "archive"), "COLUMNS": "300"}
    command = [sys.executable, "-m", "storage_ledger", "show", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("path", ["/studies/wrong-1", f"/dicom/{WRONG}", "/attention"])
def test_the_names_of_message_and_file_stand_side_by_side(browse: Browse, path: str):
    assert SIDE_BY_SIDE in page(browse, path)


@pytest.mark.parametrize("path", [f"/dicom/{MIXED}", "/attention"])
def test_each_patient_of_a_study_is_named_with_the_number_of_files(browse: Browse, path: str):
    text = page(browse, path)
    assert re.search(r"Notfall, Eins, TEMP0001[^:]*?:? 1 file", text)
    assert re.search(r"Lehmann, Anna, 4711[^:]*?:? 2 files", text)


def test_the_list_of_studies_names_the_other_patient_too(browse: Browse):
    text = page(browse, "/dicom?q=notfall")
    assert re.search(r"Notfall, Eins ?TEMP0001.*Also: Lehmann, Anna, 4711", text)
    assert "Also" not in page(browse, "/dicom?q=rossi+mueller")


def test_the_page_of_a_pipeline_study_says_that_its_dicom_study_has_another_patient(browse: Browse):
    assert "a study with files of another patient" in page(browse, "/studies/mixed-2")


def test_a_study_of_one_patient_says_nothing_of_it(browse: Browse):
    for path in ("/studies/plain-1", f"/dicom/{PLAIN}"):
        text = page(browse, path)
        assert "flagged" not in text
        assert "disagree" not in text


def test_attention_has_every_flag_with_what_it_means_and_what_to_do(browse: Browse):
    text = page(browse, "/attention")
    for code, count in (("patient-differs", 3), ("message-differs", 1), ("superseded", 1), ("unconfirmed", 1)):
        assert f"{code}, {count} file" in text
    assert "Use the later file." in text
    assert "never seen together" in text


def test_show_names_both_patients_and_what_differs(folder: Path):
    assert f"message-differs: {SIDE_BY_SIDE}" in show(folder, "wrong-1")
    [file] = json.loads(show(folder, "wrong-1", "--json"))["files"]
    assert file["flags"] == ["message-differs"]
    assert (file["patient"]["patient_name"], file["message"]["patient_name"]) == ("Mueller^Kaethe", "Rossi^Giulia")
    assert file["differences"] == [
        {"attribute": "patient_name", "message": "Rossi^Giulia", "file": "Mueller^Kaethe"},
        {"attribute": "patient_id", "message": "SGC-122138", "file": "SGC-106969"},
    ]


def test_show_names_the_other_flags(folder: Path):
    assert "patient-differs: Files of one DICOM study name different patients" in show(folder, "mixed-1")
    text = show(folder, "half-1")
    assert "superseded: The file is incomplete" in text
    assert "unconfirmed: A message with different metadata" in text
    [file] = json.loads(show(folder, "plain-1", "--json"))["files"]
    assert (file["flags"], file["differences"], file["message"]) == ([], [], {})
