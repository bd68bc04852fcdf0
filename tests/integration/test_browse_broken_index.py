"""The web pages answer whatever happens to index.db, and show a rebuilt index, in any file, without a restart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from storage_ledger.index.database_file import IndexUnwritable
from storage_ledger.index.follower import Index
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite
from tests.support.browsing import CT, Browse, make_archive

PAGES = [
    "/",
    "/dicom",
    f"/dicom/{CT}",
    "/studies/ct-1",
    "/attention",
    "/ledger/entries",
    "/index",
    "/index/studies",
    "/index/studies.json?_size=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def pages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The same process for all tests: it outlives one broken index after the other."""
    browse = Browse(folder, tmp_path_factory.mktemp("log") / "log", "--no-login")
    try:
        with httpx.Client(base_url=browse.url, trust_env=False, timeout=15) as client:
            yield client
    finally:
        browse.stop()


def rebuild(folder: Path) -> None:
    with closing(SqliteLedger(folder / "ledger" / "ledger.db")) as ledger, closing(Index(folder / "ledger" / "index.db", ledger)) as index:
        for _ in range(3):  # as `serve` does: the page may still close the file that was replaced, whose logs have the same names
            with suppress(IndexUnwritable):
                index.rebuild()
                return
        index.rebuild()


@pytest.mark.parametrize("how", ["a FIFO", "its log a FIFO", "a folder", "garbage", "no file", "no tables", "an empty file"])
def test_pages_answer_while_the_index_is_broken_and_show_it_once_it_is_rebuilt(folder: Path, pages: httpx.Client, how: str):
    assert {path: pages.get(path).status_code for path in PAGES} == dict.fromkeys(PAGES, 200)
    path = folder / "ledger" / "index.db"
    if how == "no tables":
        with closing(sqlite.connect(path)) as connection:
            connection.executescript("DROP TABLE studies; DROP TABLE files; DROP TABLE dicom_studies")
    elif how == "its log a FIFO":
        Path(f"{path}-journal").unlink(missing_ok=True)
        os.mkfifo(f"{path}-journal")
    else:
        path.unlink()
        {
            "a FIFO": os.mkfifo,
            "a folder": Path.mkdir,
            "garbage": lambda at: at.write_bytes(b"\xff" * 50_000),
            "no file": lambda _: None,
            "an empty file": Path.touch,
        }[how](path)
    for _ in range(2):  # more than there are threads in all
        answers = {each: pages.get(each).status_code for each in PAGES}
        assert all(status in {200, 400, 404, 500} for status in answers.values()), answers
        assert pages.get("/-/health").status_code == 200
    rebuild(folder)
    assert {each: pages.get(each).status_code for each in PAGES} == dict.fromkeys(PAGES, 200)


def test_an_index_in_another_file_is_shown_without_a_restart(folder: Path, pages: httpx.Client):
    path = folder / "ledger" / "index.db"
    assert pages.get("/index/studies.json?_shape=array&study_id=new").json() == []
    other = path.with_name("other.db")
    shutil.copy(path, other)
    with closing(sqlite.connect(other)) as connection:
        connection.execute("UPDATE studies SET study_id = 'new' WHERE study_id = 'ct-1'")
        connection.commit()
    other.replace(path)
    for _ in range(5):
        assert len(pages.get("/index/studies.json?_shape=array&study_id=new").json()) == 1
