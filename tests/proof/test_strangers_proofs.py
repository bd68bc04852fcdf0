"""Programs that know nothing of ours accept our proofs, and refuse changed ones."""

from __future__ import annotations

import pytest

from tests.proof.strangers import Auditor


@pytest.fixture(scope="module")
def auditor(tmp_path_factory) -> Auditor:
    return Auditor(tmp_path_factory.mktemp("auditor"), entries=600, count=12)


@pytest.mark.parametrize("judge", ["verify_py", "go", "proofbundle"])
def test_strangers_accept_our_proofs_and_refuse_changed_ones(auditor, judge):
    judged = getattr(auditor, judge)
    done = judged(auditor.proofs)
    assert done.returncode == 0, done.stdout + done.stderr
    proof = auditor.proofs[5]
    text = proof.read_text()
    lines = text.split("\n")
    for number, changed in {"swapped": [*lines[:3], lines[4], lines[3], *lines[5:]], "index": [*lines[:2], "index 7", *lines[3:]]}.items():
        other = proof.with_name(f"{number}.tlog-proof")
        other.write_text("\n".join(changed))
        assert judged([other]).returncode == 1, number
