"""Texts in a CSV file that a spreadsheet would take for a formula, such as `=HYPERLINK(…)` in a patient's name. Pure."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CELL = re.compile(r'("(?:[^"]|"")*"|[^,"\r\n]*)(,|\r\n|\n|$)')
_UNSEEN = r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*"  # what a spreadsheet may drop first
_FORMULA = re.compile(rf'"?(?:[\t\r\n]|{_UNSEEN}[=+\-@\uff1d\uff0b\uff0d\uff20])')  # also in full width
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def without_formulas(app: ASGIApp) -> ASGIApp:
    """Return the app with harmless CSV files. Datasette sends them row by row."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_csv = False

        async def sending(message: Message) -> None:
            nonlocal is_csv
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message.get("headers", []) if name.lower() == b"content-type"]
                is_csv = message["status"] == 200 and kinds[:1] != [] and kinds[0].startswith((b"text/plain", b"text/csv"))
            elif is_csv and message.get("body"):
                message = {**message, "body": harmless(message["body"].decode()).encode()}
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" and scope["path"].endswith(".csv") else send)

    return answer


def harmless(rows: str) -> str:
    """Return whole CSV rows with an apostrophe before each formula, so that a spreadsheet shows it as text. Numbers are unchanged."""
    return _CELL.sub(lambda cell: _text(cell[1]) + cell[2], rows)


def _text(cell: str) -> str:
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"\"'{cell[1:]}" if cell.startswith('"') else f"'{cell}"
