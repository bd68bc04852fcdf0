"""Renders values on a page: links between studies, files and entries; readable sizes, dates and states.

Pure. The exact value is always there: in the title, on the row's own page, in CSV and JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from storage_ledger.web.pages.formatting import person

MAX_PAYLOAD_CHARACTERS = 20_000
MAX_PAYLOAD_LINES = 200
"""A payload with more lines is not indented: a page may have a thousand rows, and indenting 20 kB of brackets takes 20 ms."""

_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value and its place in a table.

    `table` is None in the results of a query; `row` is the whole row by column. `root`: the prefix of our addresses.
    """

    value: Any
    column: str
    table: str | None
    row: Mapping[str, Any]
    root: str = ""


def render(cell: Cell) -> Markup | None:
    """Return HTML, or None to let Datasette render the value."""
    if cell.value is None or cell.value == "":
        return None
    shown = _shown(cell)
    if shown is None and isinstance(cell.value, str) and _ADDRESS.match(cell.value):
        return _code(cell)  # Datasette would make a link of it, to wherever the sender of a file wants
    return shown


def _shown(cell: Cell) -> Markup | None:
    if cell.table is not None and (count := _COUNTS.get((cell.table, cell.column))):
        return _filter_link(cell, *count)
    return next((show(cell) for of_these, show in _SHOWN if of_these.fullmatch(cell.column)), None)


def size(count: float) -> str:
    """Format bytes: `512 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _entry(cell: Cell) -> Markup | None:
    return _link(f"{cell.root}/ledger/entries/{cell.value}", cell.value) if isinstance(cell.value, int) else None


def _study(cell: Cell) -> Markup | None:
    return _link(f"{cell.root}/studies/{_quoted(cell.value)}", cell.value, "long")


def _person(cell: Cell) -> Markup | None:
    name = person(str(cell.value))
    return Markup('<span title="{}">{}</span>').format(cell.value, f"{name.text} {name.other}".strip() or cell.value)


def _dicom_study(cell: Cell) -> Markup | None:
    if cell.table == "studies" and cell.row.get("archived_at") is None:
        return _code(cell)  # no such entry yet
    return _link(f"{cell.root}/dicom/{_quoted(cell.value)}", cell.value, "long")


def _series(cell: Cell) -> Markup | None:
    return _link(f"{cell.root}/index/files?series_instance_uid={_quoted(cell.value)}", cell.value, "long")


def _filter_link(cell: Cell, target: str, key: str) -> Markup | None:
    wanted = cell.row.get(key)
    if wanted is None or not cell.value:
        return None
    return _link(f"{cell.root}/index/{target}?{key}={_quoted(wanted)}", cell.value)


def _size(cell: Cell) -> Markup | None:
    if not isinstance(cell.value, int):
        return None
    return Markup('<span title="{:,} bytes">{}</span>').format(cell.value, size(cell.value))


def _state(cell: Cell) -> Markup | None:
    word = str(cell.value)
    style = word if re.fullmatch("[a-z]+", word) else "other"
    badge = Markup('<span class="badge badge-{}">{}</span>').format(style, word)
    study_id = cell.row.get("study_id")
    if cell.column != "state" or study_id is None:
        return badge
    return Markup('<a href="{}/studies/{}" title="History">{}</a>').format(cell.root, _quoted(study_id), badge)


def _moment(cell: Cell) -> Markup | None:
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z", str(cell.value))
    if found is None:
        return None
    return Markup('<time datetime="{0}" title="{0}">{1}&nbsp;{2}</time>').format(cell.value, found[1], found[2])


def _date(cell: Cell) -> Markup | None:
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", str(cell.value))
    return found and Markup('<span class="date" title="{}">{}-{}-{}</span>').format(cell.value, found[1], found[2], found[3])


def _time(cell: Cell) -> Markup | None:
    found = re.fullmatch(r"(\d\d)(\d\d)(\d\d)?(\.\d+)?", str(cell.value))
    if found is None:
        return None
    return Markup('<span title="{}">{}</span>').format(cell.value, ":".join(part for part in found.groups()[:3] if part))


def _code(cell: Cell) -> Markup | None:
    text = cell.value.hex() if isinstance(cell.value, bytes) else str(cell.value)
    return Markup('<code class="long" title="{0}">{0}</code>').format(text)


def _payload(cell: Cell) -> Markup | None:
    """Indent a payload. A long one is shown as it is, and a huge one cut short; the row's JSON has all of it."""
    text = str(cell.value)
    if len(text) <= MAX_PAYLOAD_CHARACTERS and sum(map(text.count, ",[{")) <= MAX_PAYLOAD_LINES:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    if len(text) > MAX_PAYLOAD_CHARACTERS:
        text = text[:MAX_PAYLOAD_CHARACTERS] + " …"
    return Markup('<pre class="payload" tabindex="0">{}</pre>').format(text)


def _link(href: str, text: object, style: str = "") -> Markup:
    if not style:
        return Markup('<a href="{}">{}</a>').format(href, text)
    return Markup('<a class="{0}" href="{1}" title="{2}">{2}</a>').format(style, href, text)


def _quoted(value: object) -> str:
    return quote(str(value), safe="")


_COUNTS = {
    ("studies", "files"): ("files", "study_id"),
    ("dicom_studies", "files"): ("files", "study_instance_uid"),
    ("dicom_studies", "series"): ("series", "study_instance_uid"),
    ("dicom_studies", "studies"): ("studies", "study_instance_uid"),
    ("series", "files"): ("files", "series_instance_uid"),
}
"""Counts link to the rows that they count: (table, column) → (table, its column)."""

_SHOWN: tuple[tuple[re.Pattern[str], Callable[[Cell], Markup | None]], ...] = tuple(
    (re.compile(pattern), show)
    for pattern, show in (
        ("position|cause|first_position|last_position", _entry),
        ("study_id", _study),
        ("patient_name", _person),
        ("study_instance_uid", _dicom_study),
        ("series_instance_uid", _series),
        ("bytes", _size),
        ("state|status_sent|fixity", _state),
        (".*_at|not_before", _moment),
        ("study_date|patient_birth_date", _date),
        ("study_time", _time),
        (".*_uid|.*sha256|salt|leaf_hash|entry_id|archive_path", _code),
        ("payload", _payload),
    )
)
