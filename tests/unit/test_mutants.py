"""The mutants of tests/recovery/mutants.py fit the code: one that does not would never be tried."""

from pathlib import Path

import pytest

from tests.recovery.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_the_code(name):
    for edit in MUTANTS[name].edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit.file
