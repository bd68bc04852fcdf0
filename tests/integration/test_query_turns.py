"""One user's endless statements, pages of others, and the health check: in the real threads and processes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from pathlib import Path

from datasette.app import Datasette  # type: ignore[import-untyped] # it ships no types

from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.auth.access_log import ASKER
from storage_ledger.web.datasette.database import SafeDatabase
from storage_ledger.web.datasette.query_pool import QueryPool
from storage_ledger.web.fair_queue import FairQueue

FOR_HOURS = "SELECT instr(zeroblob(60000000), zeroblob(30000000) || x'01')"


def test_statements_that_never_end_keep_only_their_asker_waiting(tmp_path: Path):
    with closing(sqlite.connect(tmp_path / "some.db")) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")

    async def scene(database: SafeDatabase, pool: QueryPool) -> None:
        async def ask(who: str, sql: str) -> object:
            ASKER.set(who)
            return (await database.execute(sql)).rows

        endless = [asyncio.create_task(ask("a", FOR_HOURS)) for _ in range(3)]
        assert await asyncio.create_task(ask("b", "SELECT a FROM t")) == [(1,)]
        await database.answers()
        assert not any(each.done() for each in endless)
        pool.close()
        await asyncio.wait(endless)
        assert {type(each.exception()) for each in endless} == {sqlite.OperationalError}

    with ExitStack() as stack:
        turns: FairQueue[object] = FairQueue("sql", 2, waiting=9, waiting_of_one=9, running_of_one=1)
        stack.enter_context(closing(turns))
        pool = stack.enter_context(closing(QueryPool(kill_after_s=600)))
        asyncio.run(scene(SafeDatabase(pool, turns, Datasette([]), str(tmp_path / "some.db"), is_mutable=True), pool))
