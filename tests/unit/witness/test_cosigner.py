"""What the witness records before it signs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest

from storage_ledger.domain.signed_note import SignedNote
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.proof.cosignatures import cosigned_at, cosigner
from storage_ledger.witness.cosigner import Cosigner
from storage_ledger.witness.records import MOST_EVIDENCE, Records, Turn
from tests.support.witnesses import Log

LOG = Log()
KEY = Log("hospital-b.example/w").key
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Full(Records):
    """Records on a volume that is full when they are committed."""

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        with super().turn() as turn:
            yield turn
            raise LedgerBusy("ledger-full")


@pytest.mark.parametrize("records", [Records, Full])
def test_nothing_is_cosigned_that_is_not_committed(records, tmp_path):
    with closing(records(tmp_path / "w.db")) as kept:
        witness = Cosigner(KEY, [LOG.key.verifier], kept, lambda: NOW)
        if records is Full:
            with pytest.raises(LedgerBusy):
                witness.add_checkpoint(LOG.submission(0, 3))
            assert kept.newest(LOG.key.name) is None
        else:
            assert witness.add_checkpoint(LOG.submission(0, 3)).code == 200
            assert kept.newest(LOG.key.name).size == 3


def test_cosignature_states_the_time_and_the_key(tmp_path):
    with closing(Records(tmp_path / "w.db")) as kept:
        line = Cosigner(KEY, [LOG.key.verifier], kept, lambda: NOW).add_checkpoint(LOG.submission(0, 3)).body
    note = SignedNote.parse(LOG.note(3) + line.encode())
    assert cosigned_at(note.text, note.signatures, cosigner(KEY)) == (note.signatures[1], int(NOW.timestamp()))
    assert cosigned_at(note.text + "x", note.signatures, cosigner(KEY)) is None
    assert cosigned_at(note.text, note.signatures, cosigner(LOG.key)) is None


def test_evidence_is_kept_once_and_has_its_limit(tmp_path):
    with closing(Records(tmp_path / "w.db")) as kept:
        witness = Cosigner(KEY, [LOG.key.verifier], kept, lambda: NOW)
        witness.add_checkpoint(LOG.submission(0, 3))
        fork = LOG.fork(2)
        for _ in range(2):
            assert witness.add_checkpoint(fork.submission(3, 5)).code == 422
            assert witness.add_checkpoint(fork.submission(1, 3)).code == 409, "the same size with another root is evidence, too"
        assert len(kept.evidence()) == 2
        for size in range(6, MOST_EVIDENCE + 10):
            assert witness.add_checkpoint(fork.submission(3, size)).code == 422
        assert len(kept.evidence()) == MOST_EVIDENCE
