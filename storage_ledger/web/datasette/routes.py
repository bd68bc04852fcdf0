"""Our pages as Datasette routes: access check, time limit, rendering. With `plugin`, the only module that imports Datasette."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from datasette.database import QueryInterrupted  # type: ignore[import-untyped] # it ships no types
from datasette.utils import sqlite3, sqlite_timelimit  # type: ignore[import-untyped] # it ships no types
from datasette.utils.asgi import Response  # type: ignore[import-untyped]
from datasette.views.base import DatasetteError  # type: ignore[import-untyped]

from storage_ledger.errors import Retryable
from storage_ledger.operations.verify.unrecorded_result import kept
from storage_ledger.settings import SERVE_LOCK, TREE_CACHE
from storage_ledger.system.locks import is_held
from storage_ledger.web.files.proofs import StudyProofs
from storage_ledger.web.pages import needs, views
from storage_ledger.web.pages.live_state import LiveState
from storage_ledger.web.pages.live_state import live_state as make_live_state
from storage_ledger.web.pages.service_state import ServiceState

TIME_LIMIT_MS = 1000
"""Limit per query: a long read blocks the writer's checkpoints, and the WAL grows."""

LIVE_FOR_S = 1.0


def routes() -> list[tuple[str, Callable[..., Any]]]:
    """Return the routes in the form that the hook `register_routes` takes."""
    return [(route, _guarded(view)) for route, view in views.ROUTES]


def _guarded(view: views.View) -> Callable[..., Any]:
    """Check method and permissions: Datasette checks neither for a plugin's routes. The middleware is the first check."""

    async def answer(request: Any, datasette: Any) -> Any:
        if request.method not in {"GET", "HEAD"}:
            return Response.text("Read-only: this method is not allowed\n", status=405, headers={"Allow": "GET, HEAD"})
        for name in ("index", "ledger"):
            await datasette.ensure_permissions(request.actor, [("view-database", name), "view-instance"])
        may_sql = bool(await datasette.permission_allowed(request.actor, "execute-sql", resource="index", default=True))
        place = {name: unquote(value) for name, value in request.url_vars.items()}
        arguments = {name: request.args.get(name) for name in request.args}
        folder = Path(datasette.get_database("ledger").path).parent
        asked = views.PageRequest(
            place, arguments, databases(datasette), may_sql, service_state(datasette), kept(folder), study_proofs(datasette)
        )
        page = await view(asked)
        context = {**page.context, "page_name": page.name, "page_title": page.title}
        return Response.html(await datasette.render_template([f"ledger_{page.name}.html"], context, request=request), status=page.status)

    return answer


def service_state(datasette: Any) -> ServiceState:
    """Return whether `serve` works, as far as is known now."""
    folder = Path(datasette.get_database("ledger").path).parent
    state: ServiceState = datasette.service.state(serving=is_held(folder / SERVE_LOCK))
    return state


async def live_state(datasette: Any) -> LiveState:
    """Return the state for the head of a page, at most a second old. A database that cannot be read leaves a gap in it."""
    if datasette.live is not None and time.monotonic() - datasette.live[0] < LIVE_FOR_S:
        kept_state: LiveState = datasette.live[1]
        return kept_state
    found: dict[str, Any] = {}
    for name, question in (("index", needs.of_index), ("ledger", needs.of_ledger)):
        try:
            found[name] = await databases(datasette)(name, question)
        except (sqlite3.Error, DatasetteError):
            found[name] = None
    unrecorded = kept(Path(datasette.get_database("ledger").path).parent)
    state = make_live_state(found["index"], found["ledger"], service_state(datasette), unrecorded)
    datasette.live = time.monotonic(), state
    return state


def study_proofs(datasette: Any) -> StudyProofs:
    """Return what makes proofs: one object for each app, which remembers the newest checkpoint."""
    if datasette.proofs is None:
        folder = Path(datasette.get_database("ledger").path).parent
        ask = databases(datasette)

        async def asking(database: str, question: Callable[[Any], Any]) -> Any:
            try:
                return await ask(database, question)
            except (DatasetteError, QueryInterrupted):  # downloads are answered before Datasette, which would handle it
                raise Retryable("hangs", "this took too long: try again later") from None

        datasette.proofs = StudyProofs(asking, datasette.content.archive.root, folder / TREE_CACHE)
    made: StudyProofs = datasette.proofs
    return made


def databases(datasette: Any) -> views.Databases:
    """Return what runs our own queries, within the time limit."""

    async def asking(database: str, question: Callable[[Any], Any]) -> Any:
        def within_time(connection: Any) -> Any:
            with sqlite_timelimit(connection, TIME_LIMIT_MS):
                return question(connection)

        try:
            return await datasette.get_database(database).execute_fn(within_time)
        except sqlite3.OperationalError as error:
            if error.args == ("interrupted",):
                raise DatasetteError("This took too long. Narrow your search, or try again later.", status=503) from None
            raise

    return asking
