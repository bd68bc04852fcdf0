"""Datasette's settings and our hooks. An upgrade to Datasette 1.0 affects only this module and `routes`.

1.0 drops the hooks `get_metadata` and `permission_allowed`, and splits what `metadata=` holds here into `config=` (allow, queries,
hidden, sort, facets) and metadata (titles, descriptions). `Request` and `await_me_maybe` keep their modules.
"""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import astuple, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import pluggy
from datasette.app import Datasette  # type: ignore[import-untyped] # it ships no types
from datasette.database import QueryInterrupted  # type: ignore[import-untyped]
from datasette.plugins import pm  # type: ignore[import-untyped]
from datasette.utils import actor_matches_allow, await_me_maybe  # type: ignore[import-untyped]
from datasette.utils.asgi import Base400, Request, Response  # type: ignore[import-untyped]
from datasette.views.base import DatasetteError  # type: ignore[import-untyped]
from itsdangerous import BadSignature
from markupsafe import Markup
from starlette.types import ASGIApp, Scope

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.system import logs
from storage_ledger.web.auth import middleware
from storage_ledger.web.auth.credentials import ADVICE, Access
from storage_ledger.web.auth.redirects import safe_target
from storage_ledger.web.auth.sessions import Session, Sessions
from storage_ledger.web.auth.throttle import Attempts, OneAtATime
from storage_ledger.web.datasette import blobs, cells, parameters, routes
from storage_ledger.web.datasette.around import NOT_GRANTED, TOO_SLOW, around
from storage_ledger.web.datasette.database import SafeDatabase
from storage_ledger.web.datasette.query_pool import QueryPool
from storage_ledger.web.datasette.table_metadata import table_metadata
from storage_ledger.web.fair_queue import FairQueue
from storage_ledger.web.files.pictures.cache import Cache
from storage_ledger.web.files.pictures.pool import Pool
from storage_ledger.web.files.proofs import StudyProofs
from storage_ledger.web.pages import views
from storage_ledger.web.pages.live_state import LiveState
from storage_ledger.web.pages.search_terms import expression
from storage_ledger.web.service_watch import ServiceWatch
from storage_ledger.web.viewer.links import Viewer

SETTINGS = {
    "allow_download": False,  # the whole database in one request; backups have a command of their own
    "default_cache_ttl": 0,
    "default_page_size": 50,
    "max_returned_rows": 1000,
    "sql_time_limit_ms": 1000,  # a long read keeps the writer from its checkpoints, and the WAL grows
    "suggest_facets": False,  # would count every column of every page
    "truncate_cells_html": 200,
}
NO_SQL = "You can view all tables and saved queries, but not run your own SQL: only users named in the setting BROWSE_SQL_USERS can."
COOKIE = "ds_actor"
"""The login's cookie. Datasette shows its logout link if there is one of this name."""

_HERE = Path(__file__).resolve().parent.parent

hookimpl = pluggy.HookimplMarker("datasette")


@dataclass(frozen=True, slots=True)
class ContentSources:
    """Where images and downloads come from: the archive, the rendering processes, and their cache; and the viewer of studies."""

    archive: FilesystemArchive
    pool: Pool
    cache: Cache
    viewer: Viewer


@dataclass(frozen=True, slots=True)
class Login:
    """What login and logout need: failed attempts per address and user, the thread that checks passwords, and the logins."""

    attempts: Attempts
    passwords: OneAtATime
    sessions: Sessions


class Browse(Datasette):  # type: ignore[misc] # untyped, as above
    """Datasette plus the objects that our hooks need: a hook receives only the Datasette instance."""

    def __init__(self, access: Access, content: ContentSources, login: Login, service: ServiceWatch, **options: Any) -> None:
        self.access = access
        self.content = content
        self.login = login
        self.service = service
        self.live: tuple[float, LiveState] | None = None
        self.proofs: StudyProofs | None = None
        super().__init__(**options)  # builds an app, which calls the hooks

    def absolute_url(self, request: Any, path: str) -> str:  # noqa: ARG002 - Datasette's
        """Return the address without a host: the asker chooses the header Host, and a cache or a proxy may show the page to others."""
        return path

    def _routes(self) -> list[tuple[Any, Any]]:
        return [(address, self._checked(view)) for address, view in super()._routes() if "/-/allow-debug" not in address.pattern]

    def _checked(self, view: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Refuse parameters that Datasette's pages should not get (see `parameters`), and SQL that the asker may not run."""

        @wraps(view)
        async def check(request: Any, send: Any) -> Any:
            database = request.path.split("/")[1].partition(".")[0]
            if {"sql", "_where"} & set(request.args) and database in {"index", "ledger"}:
                await self.ensure_permissions(request.actor, [("execute-sql", database)])
            grant = self.access.grant((request.actor or {}).get("id"))
            only_tables = grant is not None and database not in grant.words
            given = [(name, value) for name in request.args for value in request.args.getlist(name)]
            if (why := parameters.problem(request.path, given, only_tables=only_tables)) is not None:
                raise DatasetteError(why, title="Invalid address", status=400)
            return await view(request, send)

        return check


def make_app(
    index: Path,
    ledger: Path,
    access: Access,
    content: ContentSources,
    login: Login,
    service: ServiceWatch,
    queries: QueryPool,
    turns: FairQueue[Any],
) -> ASGIApp:
    """Build the ASGI app. Both files must exist; they are opened `mode=ro`, never as immutable.

    `queries` runs the statements, in threads for which those who ask take `turns`.
    """
    if not pm.has_plugin("storage-ledger"):
        pm.register(sys.modules[__name__], "storage-ledger")
        pm.unregister(name="datasette.actor_auth_cookie")  # knows nothing of a logout
        pm.unregister(name="datasette.handle_exception")  # prints tracebacks with all local variables: patients' data in the log
    datasette = Browse(
        access,
        content,
        login,
        service,
        files=[str(index), str(ledger)],
        metadata=table_metadata(access.allow),
        settings=SETTINGS | {"base_url": f"{access.prefix}/"},
        secret=access.secret,
        template_dir=str(_HERE / "templates"),
        static_mounts=[(middleware.STYLE.strip("/").rpartition("/")[0], str(_HERE / "static"))],
    )
    for name in ("index", "ledger"):
        before = datasette.databases[name]
        datasette.remove_database(name)
        datasette.add_database(SafeDatabase(queries, turns, datasette, before.path, is_mutable=True), name=name)
    datasette.jinja_env.filters |= views.FILTERS
    datasette.jinja_env.globals["root"] = access.prefix
    for template in (_HERE / "templates").glob("*.html"):
        datasette.jinja_env.get_template(template.name)  # compiled now, so that no request waits for it
    app: ASGIApp = datasette.app()
    return app


@hookimpl(trylast=True)  # the outermost of all wrappers
def asgi_wrapper(datasette: Browse) -> Callable[[ASGIApp], ASGIApp]:
    """Run the access check first, then our own ASGI routes, then Datasette."""
    access = datasette.access

    async def who(scope: Scope) -> str | None:
        if access.open or (access.tlog_public and scope["path"].startswith(middleware.TLOG)):
            return "anybody"
        for found in pm.hook.actor_from_request(datasette=datasette, request=Request(scope, None)):
            if actor := await await_me_maybe(found):
                return str(actor["id"]) if actor_matches_allow(actor, access.allow) else None
        return None

    return around(datasette, who)


@hookimpl
def permission_allowed(datasette: Browse, actor: dict[str, str] | None, action: str, resource: Any) -> bool | None:
    """Decide what a token may do. For users, `allow` has decided already, except for SQL."""
    who = None if actor is None else str(actor["id"])
    grant = datasette.access.grant(who)
    if grant is not None:
        return grant.action(action, resource)
    if action == "execute-sql" and not datasette.access.may_sql(who):
        return False
    return None


@hookimpl(tryfirst=True)
def forbidden(datasette: Browse, request: Any, message: str) -> Any:
    """Say what is not allowed and what to do. `message` names the permission."""
    grant = datasette.access.grant((request.actor or {}).get("id"))
    why = NOT_GRANTED.format(grant) if grant else NO_SQL if message == "execute-sql" else message

    async def answer() -> Any:
        if ".json" in request.path:
            return Response.json({"ok": False, "status": 403, "error": why}, status=403)
        if grant is not None:
            return Response.text(why + "\n", status=403)
        context = {"title": "Not allowed", "error": why}
        return Response.html(await datasette.render_template("error.html", context, request=request), status=403)

    return answer


@hookimpl(tryfirst=True)
def actor_from_request(datasette: Browse, request: Any) -> dict[str, str] | None:
    """Return the actor that a bearer token or a login identifies."""
    scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and (actor := datasette.access.token(token.strip())) is not None:
        return {"id": actor}
    session = _session(datasette, request)
    return None if session is None else {"id": session.user}


def _session(datasette: Browse, request: Any) -> Session | None:
    """Return the login that the request's cookie is of, if it is still valid."""
    try:
        signed = datasette.unsign(request.cookies.get(COOKIE, ""), "login")
    except BadSignature:
        return None
    session = Session(*signed)
    return session if datasette.login.sessions.is_valid(session) else None


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Register the login page and our pages; they take precedence over Datasette's."""
    return [(f"^{middleware.LOGIN}$", login), (f"^{middleware.LOGOUT}$", logout), *routes.routes()]


async def login(request: Any, datasette: Browse) -> Any:
    """Show and handle the login form: set an expiring cookie and redirect to the requested page, or refuse, more slowly each time."""
    if request.method != "POST":
        return await _login_page(datasette, request, {"next": request.args.get("next")})
    access, attempts, passwords = datasette.access, datasette.login.attempts, datasette.login.passwords
    form = await request.post_vars()
    user, password = form.get("username") or "", form.get("password") or ""
    address = _address(request.scope, access.proxies)
    wait_s = max(attempts.wait_s(address, user), 1.0 if passwords.full() else 0.0)
    if wait_s > 0:
        text = f"Too many attempts: try again in {math.ceil(wait_s)} s."
        return await _login_page(datasette, request, form, text, 429, {"retry-after": str(math.ceil(wait_s))})
    attempts.failed(address, user)  # counted before the check, so that parallel attempts count too
    if not await passwords.ask(lambda: access.password_is(user, password)):
        logs.get().warning("browse.login-refused", address=address, actor=user if user in access.users else None)
        return await _login_page(datasette, request, form, "Invalid username or password")
    attempts.succeeded(address, user)
    logs.get().info("browse.login", address=address, actor=user)
    response = Response.redirect(safe_target(form.get("next")))
    response.set_cookie(COOKIE, datasette.sign(astuple(datasette.login.sessions.begin(user)), "login"))
    return response


async def logout(request: Any, datasette: Browse) -> Any:
    """Show and handle the logout form: end the login, for every copy of its cookie."""
    session = _session(datasette, request)
    if session is not None and request.method != "POST":
        return Response.html(await datasette.render_template("logout.html", {"actor": {"id": session.user}}, request=request))
    response = Response.redirect("/")
    if session is not None:
        datasette.login.sessions.end(session)
        logs.get().info("browse.logout", actor=session.user)
        datasette.add_message(request, "You are now logged out", datasette.WARNING)
        response.set_cookie(COOKIE, "", expires=0, max_age=0)
    return response


async def _login_page(
    datasette: Browse,
    request: Any,
    form: Mapping[str, Any],
    error: str | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Any:
    """Render the form with the earlier input, except the password."""
    context = {"error": error, "next": safe_target(form.get("next")), "username": (form.get("username") or "")[:64]}
    page = await datasette.render_template("password_login.html", context, request=request)
    return Response.html(page, status=status, headers=headers or {})


def _address(scope: Scope, proxies: frozenset[str]) -> str:
    """Return the client's address, from the connection or from a trusted proxy's header."""
    address = str((scope.get("client") or ("",))[0])
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for each in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if address not in proxies:
            break
        address = each
    return address


@hookimpl
def menu_links(datasette: Browse, actor: dict[str, str] | None) -> list[dict[str, str]]:
    """Add a link to the login page."""
    return [] if actor or datasette.access.open else [{"href": datasette.urls.path(middleware.LOGIN), "label": "Log in"}]


@hookimpl(trylast=True)  # what is registered last replaces Datasette's own
def register_output_renderer() -> dict[str, Any]:
    """Send values that are not binary, too."""
    return {"extension": "blob", "render": blobs.blob, "can_render": lambda: False}


@hookimpl
def extra_css_urls() -> list[str]:
    """Add our style sheet to every page."""
    return [middleware.STYLE]


@hookimpl
def extra_template_vars(datasette: Browse, request: Any) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Provide the installation's name, whom to ask for help, the viewer, the login's set-up advice, the footer's notice, the head's state.

    Only those who may see both databases get the state.
    """
    access = datasette.access
    actor = request.actor if request is not None else None
    advice = "No login required: go to the start page." if access.open else "" if access.users else ADVICE

    async def variables() -> dict[str, Any]:
        allowed = access.open or actor is not None
        for name in ("index", "ledger"):
            allowed = allowed and await datasette.permission_allowed(actor, "view-database", resource=name, default=True)
        return {
            "brand": access.title or "storage-ledger",
            "contact": access.contact,
            "login_advice": advice,
            "notice": access.notice,
            "viewer": datasette.content.viewer,
            "live": await routes.live_state(datasette) if allowed else None,
        }

    return variables


@hookimpl
def render_cell(row: Any, value: Any, column: str, table: str | None, database: str, datasette: Browse) -> Markup | None:
    """Render links, sizes and dates."""
    if database not in {"index", "ledger"}:
        return None
    return cells.render(cells.Cell(value, column, table, dict(zip(row.keys(), row, strict=True)), datasette.access.prefix))


@hookimpl(trylast=True)  # runs after Datasette's own, and replaces it
def prepare_connection(conn: Any) -> None:
    """Make table searches find what study searches find: Datasette calls `escape_fts` on the words of a search."""
    conn.create_function("escape_fts", 1, expression)


@hookimpl
def handle_exception(datasette: Browse, request: Any, exception: Exception) -> Callable[[], Any]:
    """Render an error page. The log gets the error's type and place, never its text."""

    async def answer() -> Any:
        info: dict[str, Any] = {}
        if isinstance(exception, Base400):
            status, message = exception.status, exception.args[0]
        elif isinstance(exception, QueryInterrupted) or (isinstance(exception, DatasetteError) and exception.message_is_html):
            status, message = 400, TOO_SLOW  # the only message in HTML is Datasette's for this
        elif isinstance(exception, DatasetteError):
            # What Datasette says itself is the asker's mistake; 500 is only the default of that class.
            status, info, message = 400 if exception.status == 500 else exception.status, exception.error_dict, exception.message
        else:
            reference = secrets.token_hex(4)
            status, message = 500, f"This page cannot be shown. The log of storage-ledger browse says why, under reference {reference}."
            frames = logs.where(exception)
            logs.get().error("browse.failed", reference=reference, error_type=type(exception).__name__, frames_at=frames)
        if status == 400 and "pks" in request.url_vars:
            status, message = 404, "No such row."  # its key has other parts than the table's
        typed = request.args.get("sql") if status == 400 else None
        info |= {"ok": False, "error": message, "status": status, "title": getattr(exception, "title", None)}
        if request.path.endswith(".json"):
            return Response.json(info, status=status)
        templates = [f"{status}.html", "error.html"]
        return Response.html(await datasette.render_template(templates, {**info, "sql": typed}, request=request), status=status)

    return answer
