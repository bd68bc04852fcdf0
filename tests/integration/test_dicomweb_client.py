"""Another project's client, dicomweb-client (PyPI), reads our DICOMweb with a token: all of its search and retrieve methods."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from storage_ledger.web.auth.credentials import new_token
from tests.dicomweb.checks import EXPLICIT, JPEG_BASELINE, File
from tests.dicomweb.conformance import files_of
from tests.support.browsing import Browse
from tests.support.dicom_archive import CT, MR, make_dicom_archive
from tests.support.judges import judge

ROOT = Path(__file__).resolve().parents[2]
CALLS = Path(__file__).resolve().parents[1] / "dicomweb" / "client_calls.py"


@pytest.fixture(scope="module")
def film_and_answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[File, list[File], dict[str, Any]]:
    python = judge("dicomweb-client==0.61.2") / "python"
    folder = tmp_path_factory.mktemp("client")
    archived = make_dicom_archive(folder / "archive")
    files = files_of(archived)
    film = max(files, key=lambda each: each.frames)
    token, hashed = new_token()
    browse = Browse(archived.folder, folder / "browse.log", BROWSE_TOKENS=f"researcher:dicomweb:{hashed}", BROWSE_WORKERS="2")
    try:
        asked = json.dumps({"ct": CT, "mr": MR, "film": [film.study, film.series, film.uid]})
        command = [python, "-I", CALLS, f"{browse.url}/dicom-web", token]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=120)
    finally:
        browse.stop()
    assert done.returncode == 0, done.stderr
    return film, list(files), json.loads(done.stdout)


def test_the_example_of_the_documentation_saves_what_was_archived(tmp_path: Path) -> None:
    python = judge("dicomweb-client==0.61.2") / "python"
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "reference" / "dicomweb.md").read_text(), re.DOTALL)
    assert found is not None
    archived = make_dicom_archive(tmp_path / "archive")
    token, hashed = new_token()
    browse = Browse(archived.folder, tmp_path / "browse.log", BROWSE_TOKENS=f"researcher:dicomweb:{hashed}")
    saved = tmp_path / "saved"
    saved.mkdir()
    try:
        example = found[1].replace("https://archive.example", browse.url)
        done = subprocess.run(
            [python, "-I", "-c", example], cwd=saved, env={"TOKEN": token}, capture_output=True, text=True, check=False, timeout=60
        )
    finally:
        browse.stop()
    assert done.returncode == 0, done.stderr
    of_ct = {f"{uid}.dcm" for study, _, uid in archived.sources if study == CT}
    assert {path.name for path in saved.iterdir()} == of_ct
    assert all(dcmread(path).PatientID == "P-1" for path in saved.iterdir())


def test_its_searches(film_and_answers: tuple[File, list[File], dict[str, Any]]) -> None:
    _, files, answers = film_and_answers
    assert answers["search"] == {
        "studies": len({each.study for each in files}),
        "studies, one page": 7,
        "studies, filtered": [CT, MR],
        "studies, fuzzy": ["P-4"],
        "studies, with fields": ["General Hospital"],
        "series": [f"{MR}.3"],
        "series of a study": [f"{MR}.{number}" for number in (1, 2, 3)],
        "instances": [f"{MR}.2.1"],
        "instances of a study": 12,
        "instances of a series": [11, 12],
    }


def test_its_retrieves(film_and_answers: tuple[File, list[File], dict[str, Any]]) -> None:
    film, files, answers = film_and_answers
    first = next(each for each in files if each.uid == f"{CT}.1.1")
    of_mr = [f"{MR}.{number}.1" for number in (1, 2, 3)]
    frames = [hashlib.sha256(each).hexdigest() for each in generate_frames(film.data_set.PixelData, number_of_frames=film.frames)]
    pixels = [hashlib.sha256(first.data_set.PixelData).hexdigest()]
    assert (film.frames, film.syntax) == (30, JPEG_BASELINE)
    assert answers["retrieve"] == {
        "study": of_mr,
        "study, one by one": of_mr,
        "study's metadata": of_mr,
        "series": 12,
        "series, one by one": 12,
        "series' metadata": 12,
        "series, rendered": ["JPEG", 64, 64],
        "instance": [first.uid],
        "instance, as stored": JPEG_BASELINE,
        "instance, explicit": EXPLICIT,
        "instance's metadata": [first.uid],
        "instance, rendered": ["JPEG", 64, 64],
        "instance, rendered as PNG": ["PNG", 32, 32],
        "frames": [frames[0], frames[1], frames[29]],
        "frames, one by one": [frames[29], frames[0]],
        "frames of any type": [len(first.data_set.PixelData)],
        "frames, decoded": film.data_set.Rows * film.data_set.Columns * film.data_set.SamplesPerPixel,
        "frame, rendered": ["PNG", film.data_set.Columns, film.data_set.Rows],
        "bulk data": pixels,
        "bulk data, piece by piece": pixels,
    }
