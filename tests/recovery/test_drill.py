"""Each disaster on a small scratch archive: the short form of `scripts/drill`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.recovery.drill import DISASTERS, Drill
from tests.support.valkey import Valkey

STUDIES = int(os.environ.get("STORAGE_LEDGER_DRILL", "16"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory, valkey_server: Valkey) -> Iterator[Drill]:
    valkey_server.start()
    made = Drill(tmp_path_factory.mktemp("drill"), STUDIES, SEED, valkey_server)
    yield made
    made.close()


@pytest.mark.parametrize("disaster", DISASTERS)
def test_everything_comes_back(drill: Drill, disaster: str) -> None:
    assert drill.meet(disaster).differences == []
