"""Readers pause for a WAL that has become too large, on a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.system.sqlite import connect
from storage_ledger.web.datasette.read_pauses import ReadPauses

MOST = 200_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


@pytest.fixture
def writer(file: Path) -> Iterator[Any]:
    with closing(connect(file, writable=True, durable=False)) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.execute(f"PRAGMA journal_size_limit = {MOST}")
        writer.execute("PRAGMA wal_autocheckpoint = 10")
        yield writer


def size(file: Path) -> int:
    return Path(f"{file}-wal").stat().st_size


def grow(writer: Any, file: Path, by: int) -> None:
    """Write while a reader keeps its snapshot: the WAL grows."""
    before = size(file)
    with closing(connect(file)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        while size(file) <= before + by:
            writer.execute("INSERT INTO t VALUES (zeroblob(50000))")


def test_a_reader_waits_for_the_others_and_for_the_writer(writer: Any, file: Path):
    pauses = ReadPauses(file, most_bytes=MOST, pause_s=600)
    happened: list[object] = []

    def read() -> None:
        with pauses.reading():
            happened.append(size(file) <= MOST)

    with pauses.reading():
        grow(writer, file, MOST)
        others = [threading.Thread(target=read) for _ in range(2)]
        for other in others:
            other.start()
        happened.append("first reader ended")
    while any(other.is_alive() for other in others):
        writer.execute("INSERT INTO t VALUES (1)")
    assert happened == ["first reader ended", True, True]


def test_if_the_writer_has_nothing_to_write_readers_wait_once(writer: Any, file: Path):
    pauses = ReadPauses(file, most_bytes=MOST, pause_s=0.01)
    grow(writer, file, MOST)
    left = size(file)
    for _ in range(3):
        with pauses.reading():
            assert size(file) == left
    waits_for_ever = ReadPauses(file, most_bytes=MOST, pause_s=600)
    waits_for_ever._pause_at = pauses._pause_at
    with waits_for_ever.reading():
        assert size(file) == left
