"""OHIF at /ohif/: the prepared files, and the configuration that leads it to /dicom-web. Behind the access check, before Datasette.

/ohif/viewer?StudyInstanceUIDs=<uid>      a study
/ohif/app-config.js                       its configuration, made here
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from storage_ledger.web.auth.middleware import VIEWER
from storage_ledger.web.files.routes import Streamed
from storage_ledger.web.files.zip_stream import PIECE
from storage_ledger.web.viewer import files

FOR_EVER = "private, max-age=31536000, immutable"
"""For names that have their content's checksum: 27 MB are otherwise loaded for each study."""

CONFIG = "app-config.js"
_DATA = {
    "qidoSupportsIncludeField": True,
    "supportsFuzzyMatching": True,
    "supportsWildcard": True,
    "supportsReject": False,
    "dicomUploadEnabled": False,
    "enableStudyLazyLoad": True,
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",  # from frames: `rendered` would need `blob:` in the page's policy
    "omitQuotationForMultipartRequest": True,
    "singlepart": "bulkdata,video",  # a PDF is fetched and shown as a blob: our policy frames no address of this site
    "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
}
_OPTIONS = {
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": False,  # ours has the search
    "maxNumberOfWebWorkers": 3,
    "showLoadingIndicator": True,
    "showWarningMessageForCrossOrigin": False,
    "strictZSpacingForVolumeViewport": True,
    "groupEnabledModesFirst": True,
    "defaultDataSourceName": "archive",
}
"""Nothing is loaded from another site, and nothing is sent to one."""


def with_viewer(app: ASGIApp, folder: Path | None, title: str, prefix: str = "") -> ASGIApp:
    """Return the app with these routes before it, if there is a folder that scripts/viewer has prepared.

    `title`: BROWSE_TITLE. `prefix`: that of the page's addresses.
    """
    return app if folder is None else ViewerRoutes(folder, title or "storage-ledger", prefix).before(app)


class ViewerRoutes:
    """The routes, for a prepared folder."""

    def __init__(self, folder: Path, title: str, prefix: str) -> None:
        self._folder = folder
        self._page = prefixed_page(folder, prefix) if prefix else None
        self._config = config_js(title, prefix)

    def before(self, app: ASGIApp) -> Router:
        """Return a router with these routes; all other addresses go to `app`."""
        return Router(
            [
                Route(VIEWER.rstrip("/"), self.root),
                Route(f"{VIEWER}{CONFIG}", self.config),
                Route(f"{VIEWER}{{name:path}}", self.file),
            ],
            redirect_slashes=False,
            default=app,
        )

    async def root(self, _: Request) -> Response:
        """Redirect to the folder."""
        return RedirectResponse(VIEWER, 302)

    async def config(self, _: Request) -> Response:
        """Return the configuration."""
        return Response(self._config, media_type=files.TYPES[".js"])

    async def file(self, request: Request) -> Response:
        """Return a file. The viewer's own pages are not files: a browser gets index.html for their names."""
        name = request.path_params["name"] or files.INDEX
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        found = await asyncio.to_thread(files.open_file, self._folder, name, gzip=gzip)
        if found is None and "." not in name.rpartition("/")[2] and "text/html" in request.headers.get("accept", ""):
            name = files.INDEX
            found = await asyncio.to_thread(files.open_file, self._folder, name, gzip=gzip)
        if found is None:
            return PlainTextResponse("The viewer has no such file\n", 404)
        if name == files.INDEX and self._page is not None:
            found.opened.close()
            return Response(self._page, media_type=files.TYPES[".html"])
        headers = {"Content-Length": str(found.size), "Vary": "Accept-Encoding"}
        if found.gzipped:
            headers["Content-Encoding"] = "gzip"
        if files.is_hashed(name):
            headers["Cache-Control"] = FOR_EVER
        pieces = _none() if request.method == "HEAD" else _pieces(found.opened)
        return Streamed(pieces, 200, headers, found.media_type, found.opened.close)


def prefixed_page(folder: Path, prefix: str) -> bytes | None:
    """Return the viewer's page with links that begin with the prefix. All other files find each other below any."""
    found = files.open_file(folder, files.INDEX, gzip=False)
    if found is None:
        return None
    with found.opened as file:
        return file.read().replace(b'="' + VIEWER.encode(), b'="' + prefix.encode() + VIEWER.encode())


def config_js(title: str, prefix: str) -> str:
    """Return the text of app-config.js."""
    data = {"friendlyName": title, "name": title, **_DATA}
    source = {"namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "archive", "configuration": data}
    return f"""\
window.PUBLIC_URL = {json.dumps(prefix + VIEWER)};
window.config = {json.dumps({"name": title, "routerBasename": prefix + VIEWER.rstrip("/"), **_OPTIONS, "dataSources": [source]}, indent=1)};
(root => Object.assign(window.config.dataSources[0].configuration, {{ qidoRoot: root, wadoRoot: root, wadoUriRoot: root }}))(
  window.location.origin + {json.dumps(prefix + "/dicom-web")}
);
"""


def accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding allows gzip (RFC 9110 §12.5.3)."""
    allowed = {}
    for part in header.lower().split(","):
        coding, *parameters = (each.strip() for each in part.split(";"))
        allowed[coding] = not any(each.partition("=")[0].strip() == "q" and not each.partition("=")[2].strip(" 0.") for each in parameters)
    return allowed.get("gzip", allowed.get("*", False))


def _pieces(file: BinaryIO) -> Generator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _none() -> Generator[bytes]:
    yield from ()
