"""The table of mutants fits the code: one that does not would be found only when somebody runs them."""

from __future__ import annotations

import pytest

from tests.recovery.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_is_there_once(name):
    assert [(ROOT / edit.file).read_text(encoding="utf-8").count(edit.old) for edit in MUTANTS[name].edits] == [1] * len(
        MUTANTS[name].edits
    )
