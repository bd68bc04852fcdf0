"""Cells of Datasette's tables."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from storage_ledger.web.auth.credentials import Access
from storage_ledger.web.datasette import plugin
from storage_ledger.web.datasette.cells import Cell, render
from storage_ledger.web.datasette.database import Row
from storage_ledger.web.datasette.table_metadata import COLUMNS


@pytest.mark.parametrize(
    "value", ["http://evil.example/x", "https://evil.example", " http://evil.example", "HTTPS://EVIL.EXAMPLE/\U0001f600"]
)
def test_no_value_of_a_sender_becomes_a_link_to_another_site(value: str):
    for tables in COLUMNS.values():
        for table, columns in tables.items():
            for column in (*columns, "anything"):
                for place in (table, None):
                    shown = render(Cell(value, column, place, {"study_id": value, "study_instance_uid": value}))
                    assert shown is not None, (table, column)  # Datasette would render it
                    assert not re.search("href=[\"']?\\s*https?:", shown, re.IGNORECASE), (table, column)


def test_a_payload_that_would_grow_to_thousands_of_lines_is_not_indented():
    nested = "[" * 50 + ",".join(["[]"] * 2000) + "]" * 50
    assert render(Cell(nested, "payload", "entries", {})) == f'<pre class="payload" tabindex="0">{nested}</pre>'
    assert str(render(Cell('{"a":[1,2]}', "payload", "entries", {}))).count("\n") == 5


def test_a_cell_costs_no_look_up_of_each_column_of_its_row():
    """A page may have a thousand rows of fifty columns."""

    class NoLookUp(Row):
        def __getitem__(self, key: Any) -> Any:
            raise AssertionError(key)

    datasette = SimpleNamespace(access=Access({}, ""))
    (row,) = NoLookUp.all(["study_id", "state"], [("S1", "archived")])
    assert 'href="/studies/S1"' in str(plugin.render_cell(row, "archived", "state", "studies", "index", datasette))
