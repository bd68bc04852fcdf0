"""Where a login leads to: the page that was asked for, and never another site. Pure; what it is given may be anybody's."""

from __future__ import annotations

from urllib.parse import quote, unquote

HOME = "/"
LONGEST = 2000
_DECODED_TIMES = 4


def asked_for(path: str, query: str) -> str:
    """What the login page's address gets behind it, empty where it leads to the start page anyway. Both as they came, not decoded."""
    wanted = back_to(path + (f"?{query}" if query else ""))
    return "" if wanted == HOME else f"?next={quote(wanted, safe='/')}"


def back_to(address: str | None) -> str:
    r"""`address` if it is a page of this site, or else the start page.

    Browsers take `//host`, `/\host` and `/<tab>/host` for other sites, and a server may decode a path once more than its
    neighbour: so it is judged as it stands, and decoded again and again until nothing changes any more. Nothing below `/-/` is a
    page to come back to; among it are login and logout, which would go in circles.
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
        and "" not in steps[1:-1]  # no `//` anywhere: what begins with it names a host
        and not {".", ".."} & set(steps)
        and steps[1] != "-"
    )
