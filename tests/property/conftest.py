"""Fixtures of the property tests, and their search limits."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.making import Ledgers

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """Make ledgers from one migrated file."""
    return Ledgers(tmp_path_factory.mktemp("template"))
