"""The bodies of forms, read in front of Datasette and `asgi_csrf`: what these cannot decode would be an error of ours."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

FORM = b"application/x-www-form-urlencoded"


async def received(scope: Scope, receive: Receive) -> Receive | None:
    """Receive a form, whose length is already limited. Return a `receive` that gives it again, or None if it is none.

    A browser sends ASCII, whatever the user types.
    """
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if kind.partition(b";")[0].strip() != FORM:
        return None
    try:
        body = await Request(scope, receive).body()
    except ClientDisconnect:
        return None
    token = dict(parse_qsl(body.decode("latin-1"))).get("csrftoken", "")
    if not (body.isascii() and token.isascii()):
        return None
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again
