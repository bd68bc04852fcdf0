"""A message that cannot be processed, even because of a bug: the others continue, and none is lost or recorded twice."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import closing, contextmanager

import pytest

from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.system.sqlite import sqlite
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline
from tests.support.waiting import until


@pytest.fixture
def pipeline(tmp_path, ledgers: Ledgers):
    made = Pipeline(tmp_path, ledgers)
    yield made
    made.ledger.close()


class Poisoned(SqliteLedger):
    """A ledger that cannot append messages with one of these uploads or first bytes (base64)."""

    poison: dict[str, Exception]

    @contextmanager
    def write(self, **how):
        with super().write(**how) as tx:
            append = tx.append

            def checked(new, **more):
                if (error := self.poison.get(new.payload.get("upload_path") or new.payload.get("raw", "")[:8])) is not None:
                    raise error
                return append(new, **more)

            tx.append = checked
            yield tx


UNEXPECTED = [
    RecursionError(),
    ValueError("canary"),
    MemoryError(),
    KeyError("canary"),
    UnicodeEncodeError("utf-8", "canary", 0, 1, "canary"),
    OverflowError("canary"),
    OSError(5, "canary"),
    AssertionError("canary"),
]


WHERE = [
    pytest.param(at, error, id=f"{at} {type(error).__name__}")
    for at in ("judging", "appending")
    for error in UNEXPECTED
    if at == "appending" or not isinstance(error, ValueError)  # for a path, this means that it is unsafe
]


@pytest.mark.parametrize(("at", "error"), WHERE)
def test_a_message_that_cannot_be_processed_is_rejected_with_its_evidence_and_the_others_go_on(pipeline, log, error, at):
    if at == "appending":
        pipeline.ledger = Poisoned(pipeline.ledger.path, clock=pipeline.clock)
        pipeline.ledger.poison = {"3.dcm": error}
    pipeline.restart()
    if at == "judging":
        resolve = pipeline.intake._paths.resolve
        pipeline.intake._paths = Paths(resolve, error)
    # None of them is related to the problem of the fourth.
    raws = [json.dumps({"study_id": f"S{n}", "file_path": f"{n}.dcm"}).encode() for n in range(6)]
    pipeline.deliver(*raws)
    found = pipeline.ledger.read(0, 100)
    assert [entry.kind for entry in found] == ["described"] * 3 + ["rejected"] + ["described"] * 2
    assert [entry.study_id for entry in found] == ["S0", "S1", "S2", None, "S4", "S5"]
    data = found[3].data
    assert data["reason"] == "not-processable"
    assert base64.b64decode(data["raw"]) == raws[3]
    assert data["raw_sha256"] == hashlib.sha256(raws[3]).hexdigest()
    assert [delivery.raw for delivery in pipeline.source.acknowledged] == raws
    assert type(error).__name__ in data["detail"]
    assert "canary" not in log.getvalue() + found[3].payload
    assert pipeline.metrics.registry.get_sample_value("storage_ledger_messages_received_total") == 6


class Paths:
    """Raises for one path."""

    def __init__(self, resolve, error) -> None:
        self._resolve = resolve
        self._error = error

    def resolve(self, path):
        if path == "3.dcm":
            raise self._error
        return self._resolve(path)


def test_an_intake_that_fails_keeps_the_messages_in_hand_and_records_each_once_when_it_runs_again(pipeline):
    raws = [json.dumps({"study_id": f"S{n}", "file_path": f"{n}.dcm"}).encode() for n in range(6)]
    pipeline.ledger = Poisoned(pipeline.ledger.path, clock=pipeline.clock)
    evidence = base64.b64encode(raws[3][:6]).decode()
    pipeline.ledger.poison = {"3.dcm": RuntimeError(), evidence: RuntimeError()}
    pipeline.restart()
    stop, ended = threading.Event(), threading.Event()
    for raw in raws:
        pipeline.intake.deliver(Delivery(raw, "pubsub"))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            pipeline.intake.run(stop, ended)
    assert [entry.study_id for entry in pipeline.ledger.read(0, 100)] == ["S0", "S1", "S2"]
    pipeline.ledger.poison = {}
    stop.set()
    ended.set()
    pipeline.intake.run(stop, ended)
    assert [entry.study_id for entry in pipeline.ledger.read(0, 100)] == [f"S{n}" for n in range(6)]
    assert [delivery.raw for delivery in pipeline.source.acknowledged] == raws


def test_what_fails_after_the_commit_appends_nothing_twice(pipeline):
    pipeline.source.acknowledge = raising(ConnectionError())
    stop, ended = threading.Event(), threading.Event()
    stop.set()
    ended.set()
    pipeline.intake.deliver(Delivery(json.dumps({"study_id": "S1", "file_path": "1.dcm"}).encode(), "stream"))
    with pytest.raises(ConnectionError):
        pipeline.intake.run(stop, ended)
    pipeline.intake.run(stop, ended)
    assert pipeline.kinds() == ["described"]


def raising(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_what_sqlite_refuses_stays_in_hand_and_nothing_is_acknowledged(pipeline):
    """A trigger or table changed by hand is not the message's fault."""
    with closing(sqlite.connect(pipeline.ledger.path)) as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON pending BEGIN SELECT RAISE(ABORT, 'no'); END")
        raw = json.dumps({"study_id": "S1", "file_path": "a.dcm"}).encode()
        stop, ended = threading.Event(), threading.Event()
        thread = threading.Thread(target=pipeline.intake.run, args=(stop, ended))
        thread.start()
        try:
            pipeline.intake.deliver(Delivery(raw, "stream"))
            until(lambda: pipeline.intake.trouble == "ledger-refused", 30)
            assert (pipeline.kinds(), pipeline.source.acknowledged) == ([], [])
            connection.execute("DROP TRIGGER no")
            connection.commit()
            until(lambda: pipeline.kinds() == ["described"], 30)
            until(lambda: len(pipeline.source.acknowledged) == 1)
        finally:
            stop.set()
            ended.set()
            thread.join(30)
