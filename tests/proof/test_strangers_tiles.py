"""A stranger's program accepts the hash tiles of an honest ledger, and nothing else; the long form is in tiles.py."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from storage_ledger.ledger.proof.keys import make
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.proof.tiles import Published
from tests.support.making import damage


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path, 1201)


def test_a_stranger_accepts_all_tiles_of_an_honest_ledger_and_no_other(published: Published, tmp_path: Path):
    with published.served() as audit:
        done = audit(published.vkey)
        assert (done.returncode, done.stdout.split()) == (0, [str(published.size), str(published.tiles)]), done.stderr
        assert (published.size, published.tiles) == (1201, 6)

        other = make(tmp_path / "other.key", published.vkey.partition("+")[0])
        assert "checkpoint: " in audit(other.verifier.text).stderr

        with closing(SqliteLedger(tmp_path / "ledger" / "ledger.db")) as ledger:
            damage(ledger, "UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 700")
        done = audit(published.vkey)
        assert (done.returncode, "0/002" in done.stderr) == (1, True), done.stderr
