"""What all answers have in common: refusals with a reason, warnings, and the address of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from storage_ledger.web.dicomweb.accept import Acceptable, acceptable
from storage_ledger.web.files.pictures import WHY, Unavailable

_STATUS = {
    "archive-missing": 503,
    "file-missing": 404,
    "file-unreadable": 503,
    "no-pixels": 404,
    "no-such-element": 404,
    "no-such-frame": 404,
    "no-such-region": 400,
    "picture-too-large": 413,
    "pictures-busy": 503,
    "syntax-unsupported": 406,
}
"""By reason; all others are 409: the file is there, and cannot be served like this."""


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """An answer that is an error (PS3.18 §8.5). `text` is for the user and names no patient."""

    status: int
    text: str
    why: str | None = None

    def response(self) -> Response:
        """Return the response."""
        headers = {"Retry-After": "10"} if self.status == 503 else {}
        if self.why:
            headers["X-Why"] = self.why
        return PlainTextResponse(self.text + "\n", self.status, headers)


def refusal(error: Unavailable) -> Refused:
    """Return the refusal of a file, or of what is made of it."""
    return Refused(_STATUS.get(error.code, 409), WHY[error.code], error.code)


def nothing_found() -> Refused:
    """Return the refusal of an address that names nothing in the archive."""
    return Refused(404, "No such study, series or instance in the archive.")


def not_acceptable(what: str) -> Refused:
    """Return 406, with what there is."""
    return Refused(406, f"This is not available in a form that the request accepts: {what}")


def accepted_by(request: Request) -> list[Acceptable]:
    """Return what the request accepts. Raises `Refused`."""
    try:
        return acceptable(", ".join(request.headers.getlist("accept")), request.query_params.getlist("accept"))
    except ValueError as error:
        raise Refused(400, str(error)) from None


def warning(texts: Sequence[str]) -> Mapping[str, str]:
    """Return a header Warning (PS3.18 §8.5.1), or none."""
    return {"Warning": ", ".join(f'299 storage-ledger "{text}"' for text in texts)} if texts else {}


Address = Callable[[Request], str]
"""Returns the URL of the service, as the client knows it."""
