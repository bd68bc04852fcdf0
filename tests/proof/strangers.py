"""Has strangers' programs check proofs of a ledger: proofbundle (PyPI), Go's golang.org/x/mod, and verify.py as an auditor gets it.

    python -m tests.proof.strangers [--entries 70000] [--proofs 300]      # the long form; scripts/test runs a short one

The ledger has entries as the service would write them (`tests/support/large_ledger.py`), and is signed by `Signer`.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.prove.bundle import bundle, program
from storage_ledger.operations.prove.output import write
from storage_ledger.operations.prove.proofs import proofs
from tests.support import judges, large_ledger
from tests.support.proving import Proving, Witness

WITNESSES = (Witness("witness1.example/w"), Witness("witness2.example/w"))
POLICY = (*(f"witness W{at} {each.key.text}" for at, each in enumerate(WITNESSES)), "group both all W0 W1", "quorum both")
SEED = 21


class Auditor:
    """A folder with a bundle of some proofs of a ledger, and a policy that was got another way."""

    def __init__(self, folder: Path, entries: int, count: int) -> None:
        path = folder / "ledger" / "ledger.db"
        path.parent.mkdir()
        large_ledger.make(path, entries - 1, SEED)  # the key's own entry is the last
        with closing(SqliteLedger(path)) as ledger:
            proving = Proving(folder, ledger)
            proving.sign(WITNESSES)
            self.vkey = proving.keys[0].text
            self.policy = folder / "policy"
            self.policy.write_text(proving.policy(*POLICY))
            self.size = proving.size
            positions = {1, self.size, *random.Random(SEED).sample(range(1, self.size + 1), count - 2)}
            chosen = [entry for each in sorted(positions) if (entry := ledger.get(each)) is not None]
            began = time.process_time()
            made = proofs(chosen, proving.covering(), ledger.leaf_hashes, proving.blocks.read(), with_payload=True)
            self.made_s = time.process_time() - began
            write(bundle(made, proving.covering(), proving.keys, with_payload=True), folder / "bundle")
        self.proofs = [folder / "bundle" / each.name for each in made]

    def verify_py(self, proof_files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
        """Run the bundle's own program, with Python alone."""
        return self._run(sys.executable, "-I", "-S", self.proofs[0].parent / "verify.py", self.policy, *proof_files)

    def go(self, proof_files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
        """Run `note.Open` and `tlog.CheckRecord`. It knows no witnesses and no payload."""
        return self._run(judges.go_program(Path(__file__).with_name("check_proof.go")), self.vkey, *proof_files)

    def proofbundle(self, proof_files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
        """Run `proofbundle verify-proof`, in one process, with both witnesses required. It gets the entry's header as a file."""
        jobs = []
        for each in proof_files:
            extra = json.loads(base64.b64decode(each.read_text().split("\n")[1].split(" ")[1]))
            header = each.with_suffix(".header")
            header.write_text(extra["header"])
            asked = ["verify-proof", "--payload-file", str(header), "--log-vkey", self.vkey, "--threshold", str(len(WITNESSES))]
            jobs.append([*asked, *(word for one in WITNESSES for word in ("--witness-vkey", one.key.text)), str(each)])
        return self._run(judges.judge("proofbundle==6.3.1") / "python", "-c", _PROOFBUNDLE, stdin=json.dumps(jobs))

    def _run(self, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, input=stdin)


_PROOFBUNDLE = """
import json, sys
from proofbundle.cli import main
failed = [job[-1] for job in json.load(sys.stdin) if main(job)]
sys.exit("not accepted: " + ", ".join(failed) if failed else 0)
"""


def main() -> None:
    """Judge many proofs of a long ledger, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=70_000)
    parser.add_argument("--proofs", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        auditor = Auditor(Path(folder), options.entries, options.proofs)
        assert auditor.proofs[0].parent.joinpath("verify.py").read_bytes() == program()
        print(f"{len(auditor.proofs)} proofs of {auditor.size:,} entries made in {auditor.made_s:.2f} s of CPU")
        for judge in (auditor.verify_py, auditor.go, auditor.proofbundle):
            began = time.perf_counter()
            done = judge(auditor.proofs)
            print(f"{judge.__name__}: exit code {done.returncode} after {time.perf_counter() - began:.2f} s")
            if done.returncode:
                sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    main()
