"""Formulas in CSV files, and what is none."""

from __future__ import annotations

import csv
import io

import pytest

from storage_ledger.web.datasette.csv_cells import harmless


def written(*rows: list[object]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "@SUM(1,2)", "+1+1", "-2+3", '=HYPERLINK("http://x","a")', "\t=1", "\r=1", "-",
     "=1\n=2", "\uff1d1", "+", '=",', "\n=1", "\n1", "\x00=1", "\x00\x01@x", " =1", "  -2+3",
     "\u200b=1", "\u00a0+1", "\ufeff@x", "\u202e =1"],
)  # fmt: skip
def test_a_formula_becomes_a_text_wherever_it_stands(text: str):
    for row in ([text], [text, "a"], ["a", text], ["a", text, 'b"c'], ["", text, ""]):
        assert read(harmless(written(row))) == [[f"'{cell}" if cell == text else cell for cell in row]]


@pytest.mark.parametrize(
    "row", [["a", "b"], [-5, 1.5, "+1", "-1e-05", "-0.5"], ["a=b", "x@y", "2+3", "1-2"],
            ['a"=b', "a,=b", "a\n=b"], ["", ""], ["DOE^JANE", None]]
)  # fmt: skip
def test_everything_else_stays_as_it_is(row: list[object]):
    assert harmless(written(row)) == written(row)
    assert harmless(written(["x"], row, ["y"])) == written(["x"], row, ["y"])
