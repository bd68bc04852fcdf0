"""When a status is read back, and what an overwritten one leads to."""

from __future__ import annotations

from contextlib import closing

import pytest

from storage_ledger.domain.ids import instant
from storage_ledger.domain.work_queue import Stage
from storage_ledger.pipeline.notify import Notifier
from storage_ledger.pipeline.status_client import StatusClient
from tests.support.pipeline import Pipeline


@pytest.fixture
def pipeline(tmp_path, ledgers, status_server):
    """A service with one archived study, whose status is due; it reads back after 10, 60 and 600 seconds."""
    with closing(StatusClient(status_server.url)) as client:
        made = Pipeline(tmp_path, ledgers, client=client)
        made.upload("s1.dcm", b"s1")
        made.say("s1", "s1.dcm")
        made.place()
        yield made
        made.ledger.close()


def next_read_back(pipeline):
    """Move the clock to the next read-back and do it; return the seconds that it waited, or None if there is none."""
    due = pipeline.ledger.next_due([Stage.CONFIRM])
    if due is None:
        return None
    waited = (instant(due) - pipeline.clock.now).total_seconds()
    pipeline.clock.now = instant(due)
    assert pipeline.tell() == 1
    return round(waited)


def test_a_status_is_read_back_three_times_and_sent_once(pipeline, status_server):
    assert pipeline.tell() == 1
    assert pipeline.tell() == 0, "nothing is due at once"
    assert [next_read_back(pipeline) for _ in range(4)] == [10, 50, 540, None]
    assert (status_server.posted("s1"), len(status_server.reads)) == (["archived"], 3)
    assert pipeline.ledger.pending_of("s1") == pipeline.ledger.due((Stage.REMOVE,), limit=9)


def test_a_status_that_is_overwritten_each_time_is_sent_again_after_longer_and_longer_waits(pipeline, status_server):
    pipeline.tell()
    waits = []
    for _ in range(5):
        status_server.late_described("s1", {})
        waits.append(next_read_back(pipeline))
    assert waits == [10, 60, 600, 600, 600]
    assert status_server.posted("s1") == ["archived"] * 6
    sent = [entry for entry in pipeline.ledger.study("s1") if entry.kind == "status-sent"]
    assert [entry.data.get("reason") for entry in sent] == [None] + ["overwritten"] * 5


def test_without_a_wait_nothing_is_read_back(pipeline, status_server):
    never = Notifier(
        pipeline.ledger, pipeline.client, archive_root=str(pipeline.archive), metrics=pipeline.metrics, clock=pipeline.clock, confirm_s=0
    )
    [group] = pipeline.due(Stage.TELL)
    outcome = never.tell(group)
    with pipeline.ledger.write() as tx:
        never.record(tx, [outcome], True)
    assert pipeline.due(Stage.TELL, Stage.CONFIRM) == []
    assert next_read_back(pipeline) is None
    assert (status_server.posted("s1"), status_server.reads) == (["archived"], [])
