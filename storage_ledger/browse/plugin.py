"""Everything that is Datasette's: its settings, and our hooks. What Datasette 1.0 does otherwise is in this module and `routes`.

1.0 drops the hooks `get_metadata` and `permission_allowed`, and takes what `metadata=` holds here in two parts, `config=`
(allow, queries, hidden, sort, facets) and metadata (titles, descriptions); the module name of `Request` and `await_me_maybe` stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
from datasette.app import Datasette  # type: ignore[import-untyped] # it ships no types
from datasette.plugins import pm  # type: ignore[import-untyped]
from datasette.utils import actor_matches_allow, await_me_maybe  # type: ignore[import-untyped]
from datasette.utils.asgi import Base400, Request, Response  # type: ignore[import-untyped]
from datasette.views.base import DatasetteError  # type: ignore[import-untyped]
from markupsafe import Markup
from starlette.types import ASGIApp, Scope

from storage_ledger import logs
from storage_ledger.browse import cells, gate, pages, routes
from storage_ledger.browse.access import ADVICE, Access
from storage_ledger.browse.catalogue import metadata
from storage_ledger.browse.studies import prefix_query

SETTINGS = {
    "allow_download": False,  # the whole database in one request; backups have a command of their own
    "default_cache_ttl": 0,
    "default_page_size": 50,
    "max_returned_rows": 1000,
    "sql_time_limit_ms": 1000,  # a long read keeps the writer from its checkpoints, and the WAL grows
    "suggest_facets": False,  # would count every column of every page
    "truncate_cells_html": 200,
}
_HERE = Path(__file__).resolve().parent

hookimpl = pluggy.HookimplMarker("datasette")


class Browse(Datasette):  # type: ignore[misc] # untyped, as above
    """Datasette that knows who may enter."""

    access: Access

    def plugin_config(self, plugin_name: str, *arguments: Any, **options: Any) -> Any:
        """The users from memory: what stands in the metadata, `/-/metadata` shows to everybody who is logged in."""
        if plugin_name == "datasette-auth-passwords":
            return {f"{user}_password_hash": hashed for user, hashed in self.access.users.items()}
        return super().plugin_config(plugin_name, *arguments, **options)


def make_app(index: Path, ledger: Path, access: Access) -> ASGIApp:
    """The whole of it as one ASGI app; both files must exist. They are opened `mode=ro`, and never as immutable."""
    Browse.access = access  # the constructor makes an app already, and asks the hooks
    if not pm.has_plugin("storage-ledger"):
        pm.register(sys.modules[__name__], "storage-ledger")
        pm.unregister(name="datasette.handle_exception")  # prints tracebacks with all local variables: patients' data in the log
    datasette = Browse(
        files=[str(index), str(ledger)],
        metadata=metadata(access.allow),
        settings=SETTINGS,
        secret=access.secret,
        template_dir=str(_HERE / "templates"),
        static_mounts=[(gate.STYLE.strip("/").rpartition("/")[0], str(_HERE / "static"))],
    )
    datasette.jinja_env.filters |= pages.FILTERS
    app: ASGIApp = datasette.app()
    return app


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Our own pages; they come before Datasette's of the same address."""
    return routes.routes()


@hookimpl(trylast=True)  # the outermost of all wrappers
def asgi_wrapper(datasette: Browse) -> Callable[[ASGIApp], ASGIApp]:
    """Put the gate in front of everything."""
    access = datasette.access

    async def may_enter(scope: Scope) -> bool:
        if access.open:
            return True
        for found in pm.hook.actor_from_request(datasette=datasette, request=Request(scope, None)):
            if actor := await await_me_maybe(found):
                return bool(actor_matches_allow(actor, access.allow))
        return False

    return lambda app: gate.Gate(app, may_enter, f"Log in at {gate.LOGIN} first." if access.users else ADVICE)


@hookimpl
def extra_css_urls() -> list[str]:
    """Our style on every page."""
    return [gate.STYLE]


@hookimpl
def extra_template_vars(datasette: Browse) -> dict[str, str]:
    """For the login page: what is to be done before anybody can log in."""
    access = datasette.access
    return {"login_advice": "No login is needed: go to the start page." if access.open else "" if access.users else ADVICE}


@hookimpl
def render_cell(row: Any, value: Any, column: str, table: str | None, database: str) -> Markup | None:
    """Links, sizes, dates."""
    if database not in {"index", "ledger"}:
        return None
    return cells.render(cells.Cell(value, column, table, {name: row[name] for name in row.keys()}))  # noqa: SIM118 - sqlite3.Row iterates over values


@hookimpl(trylast=True)  # after Datasette's own, which it replaces
def prepare_connection(conn: Any) -> None:
    """Every search finds beginnings of words: `escape_fts` is what Datasette puts around the words of a search."""
    conn.create_function("escape_fts", 1, prefix_query)


@hookimpl
def handle_exception(datasette: Browse, request: Any, exception: Exception) -> Callable[[], Any]:
    """An error page like Datasette's; the log gets the kind of error and the place, never its text."""

    async def answer() -> Any:
        info: dict[str, Any] = {}
        if isinstance(exception, Base400):
            status, message = exception.status, exception.args[0]
        elif isinstance(exception, DatasetteError):
            status, info = exception.status, exception.error_dict
            message = Markup(exception.message) if exception.message_is_html else exception.message  # noqa: S704 - Datasette's own HTML
        else:
            status, message = 500, "Something went wrong; the log of this process says where."
            logs.get().error("browse.failed", error_type=type(exception).__name__, frames_at=logs.where(exception))
        info |= {"ok": False, "error": message, "status": status, "title": getattr(exception, "title", None)}
        if request.path.endswith(".json"):
            return Response.json(info, status=status)
        templates = [f"{status}.html", "error.html"]
        return Response.html(await datasette.render_template(templates, info, request=request), status=status)

    return answer
