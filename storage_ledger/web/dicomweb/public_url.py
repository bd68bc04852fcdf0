"""The address by which a client reaches this service: the answers contain it (PS3.18 §8.2)."""

from __future__ import annotations

import re

from starlette.requests import Request

from storage_ledger.web.auth.credentials import Access

ROOT = "/dicom-web"

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,8}")
_USUAL = {"http": "80", "https": "443"}


def service_url(access: Access, request: Request) -> str:
    """Return the URL of the service, without a slash at the end.

    It is that of BROWSE_PUBLIC_URL. Without it, what a proxy says of the request (`X-Forwarded-*`) or its header Host; a Host without a
    port, which some clients send, gets the port of the connection.
    """
    if access.public_url is not None:
        return access.public_url + ROOT
    scope, headers = request.scope, request.headers
    forwarded = _first(headers.get("x-forwarded-host"))
    host = forwarded if forwarded and access.hosts.include(forwarded) else headers.get("host", "")
    server = scope.get("server") or ("127.0.0.1", 80)
    found = _HOST.fullmatch(host)
    name, port = (found["name"], found["port"]) if found else (_bracketed(str(server[0])), None)
    scheme = str(scope["scheme"])
    if port is None:
        behind_a_proxy = any(f"x-forwarded-{each}" in headers for each in ("proto", "host", "port"))
        said = _first(headers.get("x-forwarded-port"))
        port = said if re.fullmatch("[0-9]{1,5}", said) else None if behind_a_proxy else str(server[1])
    prefix = _first(headers.get("x-forwarded-prefix")).rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    return f"{scheme}://{name}{f':{port}' if port not in (None, _USUAL.get(scheme)) else ''}{prefix}{ROOT}"


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
