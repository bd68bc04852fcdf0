"""Which parameters Datasette's pages take, checked before Datasette sees them. Pure.

Datasette has more than these pages need, among them some that read other tables than the one in the address, and it answers invalid
values with errors of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress

from storage_ledger.web.datasette.table_metadata import COLUMNS, QUERIES

LONGEST_PATTERN = 200
"""SQLite compares a pattern with each position of a value: a long pattern on long values takes minutes."""

MOST = 300
"""Parameters of one address."""

OF_ONE_TABLE = frozenset(
    {
        "_size",
        "_next",
        "_sort",
        "_sort_desc",
        "_sort_by_desc",
        "_search",
        "_facet",
        "_facet_array",
        "_facet_date",
        "_facet_size",
        "_col",
        "_nocol",
        "_nocount",
        "_nofacet",
        "_nosuggest",
        "_filter_column",
        "_filter_op",
        "_filter_value",
        "_shape",
        "_json",
        "_json_infinity",
        "_nl",
        "_dl",
        "_stream",
        "_header",
        "_timelimit",
        "_ttl",
        "_blob_column",
        "_blob_hash",
    }
)
"""Parameters that reach only the rows of the table in the address."""

OF_WHOLE_DATABASES = OF_ONE_TABLE | frozenset({"_where", "_label", "_labels", "_extras", "_show_sql", "_hide_sql", "_show_hidden"})

_COLUMN = frozenset({"_sort", "_sort_desc", "_facet", "_facet_array", "_facet_date", "_col", "_nocol", "_blob_column"})
_NUMBER = frozenset({"_size", "_timelimit", "_facet_size", "_ttl"})
_PATTERN = frozenset({"contains", "startswith", "endswith", "like", "notlike", "glob"})
_COMPARE = frozenset({"gt", "gte", "lt", "lte"})
_LISTS = frozenset({"in", "notin", "arraycontains", "arraynotcontains"})
_OTHER = frozenset({"exact", "not", "date", "isnull", "notnull", "isblank", "notblank"})
_PLACE = re.compile(r"/(index|ledger)(?:/([^/.]+?))?(/[^/]+?)?(?:\.\w+)?")


def problem(path: str, parameters: Sequence[tuple[str, str]], *, only_tables: bool = False) -> str | None:
    """Return why Datasette does not get these parameters of this path; None if it does. `only_tables`: the asker may see single tables."""
    place = _PLACE.fullmatch(path)
    if place is None:
        return None
    if len(parameters) > MOST:
        return f"An address may have {MOST} parameters."
    database, table = place[1], place[2] or ""
    columns = COLUMNS[database].get(table)
    is_rows = bool(table) and table not in QUERIES[database] and place[3] is None
    known = OF_ONE_TABLE if only_tables else OF_WHOLE_DATABASES
    for name, value in parameters:
        if name.startswith("_") and "__" not in name:
            why = _of_page(name, value, known, columns)
        else:
            why = _of_filter(name, value, columns) if is_rows else None
        if why is not None:
            return why
    return None


def _of_page(name: str, value: str, known: frozenset[str], columns: dict[str, str] | None) -> str | None:
    if re.sub(r"_[0-9]{1,3}$", "", name) not in known:
        return f"{name[:40]} is not a parameter of this page."
    if name in _NUMBER and not re.fullmatch("|max|[0-9]{1,6}", value, re.ASCII):
        return f"{name} must be a whole number."
    if name == "_json_infinity" and value.lower() not in {"on", "off", "true", "false", "1", "0"}:
        return f"{name} must be on or off."
    if name in _COLUMN and columns is not None and value and value not in columns:
        return f"{name} must be a column of this table."
    return None


def _of_filter(name: str, value: str, columns: dict[str, str] | None) -> str | None:
    column, _, operator = name.rpartition("__") if "__" in name else (name, "", "exact")
    if columns is not None and column not in columns:
        return f"{column[:40]} is not a column of this table."
    if operator in _PATTERN and len(value) > LONGEST_PATTERN:
        return f"{name}: at most {LONGEST_PATTERN} characters."
    if operator in _COMPARE and value.isdigit() and not re.fullmatch("[0-9]{1,18}", value, re.ASCII):
        return f"{name}: this number is too large."
    if operator in _LISTS and not _is_list(value):
        return f"{name}: not a list of values."
    if operator not in _PATTERN | _COMPARE | _LISTS | _OTHER:
        return f"{operator[:40]} is not a way to compare."
    return None


def _is_list(value: str) -> bool:
    """Return whether a list is one of values: separated by commas, or in JSON."""
    if not value.startswith("["):
        return True
    with suppress(ValueError, RecursionError):
        return all(
            each is None or isinstance(each, (str, float)) or (isinstance(each, int) and abs(each) < 1 << 63) for each in json.loads(value)
        )
    return False
