"""metadata.json after a power cut: what is compared, what is written again, and what the ledger notes about it."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.service.metadata_sync import MetadataSync
from storage_ledger.system.sqlite import sqlite
from tests.support.pipeline import Pipeline


@pytest.fixture
def pipeline(tmp_path, ledgers):
    return Pipeline(tmp_path / "run", ledgers)


def archive(pipeline: Pipeline, *studies: str) -> None:
    for study in studies:
        name = f"{study}-{len(os.listdir(pipeline.uploads))}.dcm"
        pipeline.upload(name, name.encode())
        pipeline.say(study, name)
    pipeline.place()


class Archive(FilesystemArchive):
    """Counts what a start compares; `error` makes the sync fail."""

    error: Retryable | None = None

    def __init__(self, root) -> None:
        super().__init__(root, metadata_later=True)
        self.compared: set[str] = set()

    def check(self, study_id, name, sha256, size):
        self.compared.add(study_id)
        return super().check(study_id, name, sha256, size)

    def sync_metadata(self) -> None:
        if self.error:
            raise self.error
        super().sync_metadata()


def started(pipeline: Pipeline, error: Retryable | None = None) -> Archive:
    """Start and stop; return the archive that was used."""
    made = Archive(pipeline.archive)
    made.error = error
    stop = threading.Event()
    stop.set()
    MetadataSync(pipeline.ledger, made).run(stop)
    return made


def last(pipeline: Pipeline) -> int:
    return pipeline.ledger.last().position


@pytest.mark.parametrize("left", [b"", bytes(100), b'{"study_id": "b", "fi'])
def test_what_a_power_cut_left_is_written_again_as_the_ledger_says(pipeline, left):
    archive(pipeline, "a", "b")
    path = pipeline.archive / "b" / "metadata.json"
    right = path.read_bytes()
    path.write_bytes(left)
    started(pipeline)
    assert path.read_bytes() == right
    assert pipeline.ledger.metadata_synced() == last(pipeline)


def test_a_missing_one_is_written_again(pipeline):
    archive(pipeline, "a")
    path = pipeline.archive / "a" / "metadata.json"
    right = path.read_bytes()
    path.unlink()
    started(pipeline)
    assert path.read_bytes() == right


def test_only_studies_beyond_the_noted_position_are_compared(pipeline):
    archive(pipeline, "a", "b")
    assert started(pipeline).compared == {"a", "b"}
    archive(pipeline, "c")
    assert started(pipeline).compared == {"c"}
    assert started(pipeline).compared == set()


def test_an_archived_study_with_another_file_to_place_is_compared_too(pipeline):
    archive(pipeline, "a", "b")
    started(pipeline)
    pipeline.upload("a2.dcm", b"second")
    pipeline.say("a", "a2.dcm")
    pipeline.say("new", "new.dcm")
    assert started(pipeline).compared == {"a"}


def test_after_a_failed_sync_nothing_is_noted_and_the_next_start_compares(pipeline):
    archive(pipeline, "a")
    started(pipeline, Retryable("archive-io", "x", errno=errno.EIO))
    assert pipeline.ledger.metadata_synced() == 0
    assert started(pipeline).compared == {"a"}


def test_a_lost_archive_is_waited_for_and_nothing_is_placed(pipeline):
    archive(pipeline, "a")
    pipeline.archive.rename(pipeline.archive.with_name("away"))
    made = MetadataSync(pipeline.ledger, FilesystemArchive(pipeline.archive))
    stop = threading.Event()
    stop.set()
    made.run(stop)
    assert not made.recovered.is_set()
    assert pipeline.ledger.metadata_synced() == 0


def test_the_name_without_bytes_that_a_power_cut_left_is_no_evidence(pipeline):
    """The first file of a study was placed, and the power failed before its entry: only names were durable."""
    pipeline.upload("a.dcm", b"bytes")
    pipeline.say("a", "a.dcm")
    (pipeline.archive / "a").mkdir()
    (pipeline.archive / "a" / "metadata.json").write_bytes(b"")
    pipeline.place()
    assert not (pipeline.archive / ".ledger").exists()
    assert pipeline.due(Stage.PLACE) == []


@pytest.mark.parametrize("noted", ["999999", "-1", "no number", ""])
def test_a_noted_position_that_cannot_be_right_counts_as_unknown(pipeline, noted):
    archive(pipeline, "a")
    started(pipeline)
    with closing(sqlite.connect(pipeline.ledger.path)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'metadata_synced'", (noted,))
        connection.commit()
    assert started(pipeline).compared == {"a"}
