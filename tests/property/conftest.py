"""Fixtures of the property tests."""

from __future__ import annotations

import pytest

from tests.support.making import Ledgers


@pytest.fixture(scope="session")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """Make ledgers from one migrated file."""
    return Ledgers(tmp_path_factory.mktemp("template"))
