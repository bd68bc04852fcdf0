"""A study's state that is kept between batches equals the one from its entries, whatever happened to the batch before."""

from __future__ import annotations

import pytest

from storage_ledger.domain.study import Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Retryable
from storage_ledger.pipeline.study_folds import MOST, StudyFolds
from tests.support.making import damage
from tests.support.pipeline import Pipeline


@pytest.fixture
def pipeline(tmp_path, ledgers):
    return Pipeline(tmp_path / "run", ledgers)


class Counting:
    """A ledger that counts the entries of studies read from it."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.read = 0

    def study(self, study_id, *, after=0):
        entries = list(self.ledger.study(study_id, after=after))
        self.read += len(entries)
        return iter(entries)


def describe(pipeline, name, study_id="S1"):
    pipeline.upload(name, name.encode())
    pipeline.say(study_id, name)


def test_each_entry_is_folded_once_however_many_batches_there_are(pipeline):
    folds = StudyFolds(Counting(pipeline.ledger))
    for number in range(20):
        describe(pipeline, f"{number}.dcm")
        pipeline.place()
        assert folds.lend("S1", []) == Study.of("S1", pipeline.ledger.study("S1"))
        folds.keep("S1")
    assert folds._ledger.read == 40


def test_what_was_fed_and_did_not_come_about_is_not_kept(pipeline):
    describe(pipeline, "a.dcm")
    [work_items] = pipeline.due(Stage.PLACE)
    pipeline.placer.place_batch(work_items)  # and its commit fails
    (pipeline.uploads / "a.dcm").unlink()
    describe(pipeline, "b.dcm")
    pipeline.place()
    assert [file["name"] for file in pipeline.metadata("S1")["files"]] == ["b.dcm"]
    pipeline.check_metadata()


def test_where_metadata_json_could_not_be_written_the_fold_is_not_kept(pipeline):
    hindrance = pipeline.archive / "S1" / ".metadata.json.tmp" / "x"
    hindrance.mkdir(parents=True)
    describe(pipeline, "a.dcm")
    pipeline.place()
    hindrance.rmdir()
    hindrance.parent.rmdir()
    (pipeline.uploads / "a.dcm").unlink()
    describe(pipeline, "b.dcm")
    pipeline.place()
    assert [file["name"] for file in pipeline.metadata("S1")["files"]] == ["b.dcm"]


def test_an_entry_at_hand_is_checked_even_where_the_kept_fold_has_it(pipeline):
    describe(pipeline, "a.dcm")
    folds = StudyFolds(pipeline.ledger)
    folds.lend("S1", [])
    folds.keep("S1")
    damage(pipeline.ledger, "UPDATE entries SET payload = replace(payload, 'a.dcm', 'b.dcm')")
    with pytest.raises(Retryable, match="position 1"):
        folds.lend("S1", [pipeline.ledger.get(1)])


def test_only_a_few_are_kept(pipeline):
    folds = StudyFolds(Counting(pipeline.ledger))
    for _ in range(2):
        for number in range(MOST + 1):
            folds.lend(f"S{number}", [])
            folds.keep(f"S{number}")
    assert len(folds._kept) == MOST
