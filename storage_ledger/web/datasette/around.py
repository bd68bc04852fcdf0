"""What answers before Datasette does: the access check, then our own ASGI routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from datasette.database import QueryInterrupted  # type: ignore[import-untyped] # it ships no types
from starlette.types import ASGIApp, Scope

from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.web.answer_limits import with_limits
from storage_ledger.web.auth import middleware
from storage_ledger.web.auth.access_log import AccessLog
from storage_ledger.web.auth.credentials import ADVICE
from storage_ledger.web.datasette.checkpoint_routes import CheckpointRoutes
from storage_ledger.web.datasette.csv_cells import without_formulas
from storage_ledger.web.datasette.health import Health
from storage_ledger.web.datasette.routes import study_proofs
from storage_ledger.web.dicomweb.answers import Refused
from storage_ledger.web.dicomweb.cross_origin import with_cors
from storage_ledger.web.dicomweb.instances import Instances
from storage_ledger.web.dicomweb.public_url import service_url
from storage_ledger.web.dicomweb.retrieve import Sources
from storage_ledger.web.dicomweb.routes import DicomWeb
from storage_ledger.web.dicomweb.search import Search
from storage_ledger.web.files.checked import CheckedFiles
from storage_ledger.web.files.lookup import FileLookup, Query
from storage_ledger.web.files.renderings import Renderings
from storage_ledger.web.files.routes import ContentRoutes
from storage_ledger.web.open_checkpoint import OpenCheckpoint
from storage_ledger.web.prefix import with_prefix
from storage_ledger.web.viewer.routes import with_viewer

if TYPE_CHECKING:
    from storage_ledger.web.datasette.plugin import Browse

NOT_GRANTED = "This token does not allow that. It allows: {}. BROWSE_TOKENS defines what a token allows."
TOO_SLOW = "This took too long: a query is stopped after one second. Ask for less, or for rows that an index finds."


def around(datasette: Browse, who: Callable[[Scope], Awaitable[str | None]]) -> Callable[[ASGIApp], ASGIApp]:
    """Return what wraps Datasette's app. `who` returns the actor of a request that has access, else None."""
    access = datasette.access
    lookup = FileLookup(_queries(datasette, "index"), datasette.content.archive)
    content = ContentRoutes(lookup, datasette.content.pool, datasette.content.cache, study_proofs(datasette))
    dicomweb = _dicomweb(datasette, lookup)
    advice = (
        f"Log in at {middleware.LOGIN} first."
        if access.users
        else "Send a token as `Authorization: Bearer …`."
        if access.tokens
        else ADVICE
    )

    def refused(actor: str, path: str) -> str | None:
        grant = access.grant(actor)
        return None if grant is None or grant.path(path) else NOT_GRANTED.format(grant)

    health = Health(lambda: datasette.get_database("ledger").answers())
    checkpoint = CheckpointRoutes(OpenCheckpoint(CheckpointFolder(datasette.content.archive.root).latest), datasette)
    log = AccessLog(lookup)

    def wrapped(app: ASGIApp) -> ASGIApp:
        viewer = with_viewer(without_formulas(app), datasette.content.viewer.folder, access.title, access.prefix)
        routes = checkpoint.before(with_limits(content.before(dicomweb.before(viewer))))
        checked = middleware.AccessMiddleware(routes, who, advice, refused, access.hosts.include, health.answers, log)
        return with_prefix(access.prefix, with_cors(access.cors_origins, checked))

    return wrapped


def _queries(datasette: Browse, database: str) -> Query:
    async def query(sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in (await datasette.get_database(database).execute(sql, dict(parameters))).rows]

    return query


def _dicomweb(datasette: Browse, lookup: FileLookup) -> DicomWeb:
    def searching(database: str) -> Query:
        query = _queries(datasette, database)

        async def search(sql: str, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
            try:
                return await query(sql, parameters)
            except QueryInterrupted:
                raise Refused(503, TOO_SLOW) from None

        return search

    checked = CheckedFiles(lookup)
    sources = Sources(checked, Renderings(checked.open, datasette.content.pool, datasette.content.cache))
    search = Search(searching("index"), searching("ledger"))
    return DicomWeb(search, Instances(searching("index")), sources, partial(service_url, datasette.access))
