"""The generated ledger of the benchmarks is one that the service could have written."""

from __future__ import annotations

import pytest

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Kind, faults
from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.support.large_ledger import make


@pytest.mark.parametrize("batch", [400, 3_000], ids=["with-a-process", "without"])
def test_entries_have_their_hashes_and_are_canonical(tmp_path, batch):
    studies = make(tmp_path / "ledger.db", 3_000, batch=batch)
    ledger = SqliteLedger(tmp_path / "ledger.db")
    try:
        entries = list(ledger.scan(0, 3_000))
        assert [entry.position for entry in entries] == list(range(1, 3_001))
        assert not [entry.position for entry in entries if faults(entry)]
        assert all(entry.payload == canonical_json.dumps(canonical_json.loads(entry.payload)) for entry in entries)
        assert studies == ledger.count_studies()
        assert {Kind.DESCRIBED, Kind.ARCHIVED, Kind.STATUS_SENT, Kind.QUARANTINED, Kind.REJECTED} <= {Kind(e.kind) for e in entries}
        last = {stage.stage: stage.rows for stage in ledger.queue()}
        assert set(last) <= {Stage.PLACE, Stage.TELL, Stage.CONFIRM}
        assert last[Stage.CONFIRM] < 600, "only the last statuses are still to be read back"
    finally:
        ledger.close()
