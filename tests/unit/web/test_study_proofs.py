"""What the page knows of checkpoints, without a volume."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

from datasette.utils import sqlite3

from storage_ledger.web.datasette.routes import study_proofs
from storage_ledger.web.files.proofs import StudyProofs


def test_question_that_is_stopped_at_its_time_limit_is_a_reason_and_no_failure(tmp_path: Path):
    async def stopped(question):
        raise sqlite3.OperationalError("interrupted")

    database = SimpleNamespace(path=str(tmp_path / "ledger.db"), execute_fn=stopped)
    content = SimpleNamespace(archive=SimpleNamespace(root=tmp_path))
    datasette = SimpleNamespace(proofs=None, content=content, get_database=lambda _: database)
    assert asyncio.run(study_proofs(datasette).refusal(1)) == "This took too long: try again later."


def test_page_does_not_wait_for_an_archive_that_hangs_and_asks_it_once(tmp_path: Path):
    async def run() -> None:
        asked = []

        async def never(database, question):
            asked.append(database)
            await asyncio.Event().wait()

        made = StudyProofs(never, tmp_path, tmp_path / "tree.cache", within_s=0.01)
        assert await made.refusal(1) == "The archive's volume does not answer."
        assert await made.refusal(1) == "The archive's volume does not answer."
        assert asked == ["ledger"]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(run())
