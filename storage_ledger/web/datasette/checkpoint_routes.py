"""What anyone may ask about the ledger's tree: its newest checkpoint, and below /tlog/ its hash tiles."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasette.database import QueryInterrupted  # type: ignore[import-untyped] # it ships no types
from datasette.views.base import DatasetteError  # type: ignore[import-untyped]
from starlette.types import ASGIApp

from storage_ledger.settings import TREE_CACHE
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.answer_limits import LimitedAnswers
from storage_ledger.web.auth.middleware import TLOG
from storage_ledger.web.datasette.routes import databases
from storage_ledger.web.open_checkpoint import OpenCheckpoint
from storage_ledger.web.tlog.routes import TlogRoutes
from storage_ledger.web.tlog.tree import TilesUnavailable, TreeSource

if TYPE_CHECKING:
    from storage_ledger.web.datasette.plugin import Browse

TILES_AT_A_TIME = 16
"""8 kB each."""


class CheckpointRoutes:
    """The routes of the checkpoint and of the tiles; the latter come from the ledger that Datasette has open."""

    def __init__(self, checkpoint: OpenCheckpoint, datasette: Browse) -> None:
        self._checkpoint = checkpoint
        ledger = Path(datasette.get_database("ledger").path)

        async def ask(question: Callable[[Any], Any]) -> Any:
            try:
                return await databases(datasette)("ledger", question)
            except (DatasetteError, QueryInterrupted):
                raise TilesUnavailable("Too many requests, or the ledger's disk is slow") from None
            except sqlite.Error:
                raise TilesUnavailable("The ledger cannot be read") from None

        source = TreeSource(ledger.with_name(TREE_CACHE), ledger)
        self._tiles = TlogRoutes(ask, checkpoint.checkpoint, source, public=datasette.access.tlog_public)

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return an app with these routes; all other addresses go to `app`."""
        return self._checkpoint.before(LimitedAnswers(self._tiles.before(app), TILES_AT_A_TIME, re.compile(TLOG)))
