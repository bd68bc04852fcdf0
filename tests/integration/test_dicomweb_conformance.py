"""Our DICOMweb passes the checks of tests/dicomweb; `python -m tests.dicomweb.conformance` holds another server against them, too."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dicomweb.checks import Check, File, Server
from tests.dicomweb.conformance import GROUPS, files_of, rows, run
from tests.dicomweb.odd_files import dicom_files, wrong
from tests.dicomweb.servers import PACKAGES, Orthanc, ours, program, served
from tests.support.dicom_archive import ROOT, make_dicom_archive

CHECKS = [(f"{group.name}: {check.name}", check) for group in GROUPS for check in group.checks]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("conformance")
    archived = make_dicom_archive(folder / "archive")
    with ours(archived.folder, files_of(archived), folder / "browse.log") as server:
        yield server
    log = (folder / "browse.log").read_text()
    assert "DOE" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[name for name, _ in CHECKS])
def test_check(server: Server, name: str, check: Check) -> None:
    check.run(server)


def test_no_name_stands_twice() -> None:
    assert len({name for name, _ in CHECKS}) == len(CHECKS)


def test_a_server_that_has_nothing_fails_and_the_table_says_so(server: Server) -> None:
    nothing = Server(server.client, (File("1", "2", "3", server.files[0].data),))
    failures = run(nothing, GROUPS[5:6])
    assert failures["Retrieve: instances", "every instance comes back byte for byte"]
    (row, total) = rows(GROUPS[5:6], [failures])
    assert row[0] == "Retrieve: instances"
    assert row[1] != f"{len(failures)} of {len(failures)}"
    assert total[0] == "**all**"


def test_another_server_passes_most_checks_of_searches(server: Server, tmp_path: Path) -> None:
    if program() is None:
        pytest.skip(f"Orthanc and its plugins are not installed: apt-get install {PACKAGES}")
    orthanc = Orthanc(tmp_path / "orthanc")
    try:
        made = orthanc.store(each for each in server.files if each.study.startswith(ROOT))
        with served(orthanc, made) as other:
            failures = run(other, [GROUPS[0], GROUPS[3]])
    finally:
        orthanc.close()
    assert len(made) > 15
    passed = sum(reason is None for reason in failures.values())
    assert passed > 0.6 * len(failures), failures


def test_an_odd_file_is_wrong_if_it_comes_back_as_another(server: Server) -> None:
    file = server.files[0]
    assert list(wrong(server, file)) == []
    other = File(file.study, file.series, file.uid, file.data + b"x")
    assert ["byte for byte" in text for text in wrong(server, other)] == [True]
    missing = File(file.study, file.series, "1.2.3", file.data)
    assert [text.split(":")[0] for text in wrong(server, missing)] == ["it does not come back byte for byte", "metadata"]


def test_odd_files_are_found_in_zip_files_and_compressed(tmp_path: Path) -> None:
    dicom = bytes(128) + b"DICM"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inside", dicom)
        archive.writestr("text", b"text")
    (tmp_path / "b.dcm.gz").write_bytes(gzip.compress(dicom))
    (tmp_path / "c.IMA").write_bytes(b"says so")
    (tmp_path / "d.txt").write_bytes(b"text")
    assert dict(dicom_files(tmp_path)) == {"a.zip/inside": dicom, "b.dcm.gz": dicom, "c.IMA": b"says so"}
