"""Redirects after a login: to the requested page, never to another site. Pure; the input is untrusted."""

from __future__ import annotations

from urllib.parse import quote, unquote

HOME = "/"
LONGEST = 2000
_DECODED_TIMES = 4


def login_query(path: str, query: str) -> str:
    """Return the query string for the login page; empty for the start page. Pass the raw path and query."""
    wanted = safe_target(path + (f"?{query}" if query else ""))
    return "" if wanted == HOME else f"?next={quote(wanted, safe='/')}"


def safe_target(address: str | None) -> str:
    r"""Return `address` if it is a page of this site, otherwise the start page.

    Browsers read `//host`, `/\host` and `/<tab>/host` as other sites, and a proxy may decode a path once more than the server
    does. So the address is checked as given, then decoded and checked again until it no longer changes. Addresses below `/-/`
    are refused: login and logout would loop.
    """
    address = address or ""
    if not (address.isascii() and len(address) <= LONGEST):
        return HOME
    text = address
    for _ in range(_DECODED_TIMES):
        if not _is_ours(text):
            return HOME
        text, before = unquote(text), text
        if text == before:
            return address
    return HOME


def _is_ours(text: str) -> bool:
    path = text.partition("?")[0]
    steps = path.split("/")
    return (
        text.startswith("/")
        and text.isprintable()  # no control characters
        and "\\" not in text
        and " " not in path
        and "" not in steps[1:-1]  # no `//` anywhere: at the start it names a host
        and not {".", ".."} & set(steps)
        and steps[1] != "-"
    )
