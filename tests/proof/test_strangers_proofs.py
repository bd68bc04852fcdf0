"""Programs that know nothing of ours accept our proofs, and refuse changed ones."""

from __future__ import annotations

import pytest

from tests.proof.strangers import Auditor


@pytest.fixture(scope="module")
def auditor(tmp_path_factory) -> Auditor:
    return Auditor(tmp_path_factory.mktemp("auditor"), entries=400, count=5)


@pytest.mark.parametrize("judge", ["verify_py", "go", "proofbundle"])
def test_strangers_accept_our_proofs_and_refuse_a_changed_one(auditor, judge):
    judged = getattr(auditor, judge)
    done = judged(auditor.proofs)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = auditor.proofs[2].read_text().split("\n")
    swapped = auditor.proofs[2].with_name("swapped.tlog-proof")
    swapped.write_text("\n".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    assert judged([swapped]).returncode == 1
