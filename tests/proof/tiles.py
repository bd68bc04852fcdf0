"""Has a stranger's program, aics-tlog (PyPI), check all hash tiles of a ledger over HTTP, as the web page serves them.

    python -m tests.proof.tiles [--entries 70000]      # the long form; scripts/test runs a short one

The ledger has entries as the service would write them (`tests/support/large_ledger.py`), and is signed by `Signer`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage_ledger.ledger.proof.keys import recorded_keys
from tests.support import judges, large_ledger
from tests.support.browsing import Browse
from tests.support.signed_ledger import opened
from tests.support.warm import close_shared

JUDGE = "aics-tlog==0.2.1"
PROGRAM = Path(__file__).with_name("audit_tiles.py")
SEED = 21
Audit = Callable[[str], subprocess.CompletedProcess[str]]


class Published:
    """A ledger in a folder, with checkpoints of some of its entries and of all. `old`: the file with the first."""

    def __init__(self, folder: Path, entries: int) -> None:
        self.folder = folder
        self.old = folder / "old"
        (folder / "ledger").mkdir()
        later = entries // 4
        large_ledger.make(folder / "ledger" / "ledger.db", entries - later - 1, SEED)  # the key's entry is one more
        with opened(folder) as made:
            made.mirror.rewrite()
            self.old.write_text(made.sign())
            made.append(later)
            made.sign()
            made.index()
            self.vkey = recorded_keys(made.ledger)[0].vkey
            self.size = made.ledger.last().position

    @property
    def tiles(self) -> int:
        """How many tiles the tree has."""
        found, hashes = 0, self.size
        while hashes:
            found += -(-hashes // 256)
            hashes //= 256
        return found

    @contextmanager
    def served(self) -> Iterator[Audit]:
        """Serve it, and yield what has it audited by somebody who has this public key."""
        python = judges.judge(JUDGE, oldest=(3, 12)) / "python"
        browse = Browse(self.folder, self.folder / "log", TLOG_PUBLIC="true")

        def audit(vkey: str) -> subprocess.CompletedProcess[str]:
            command = [python, "-I", PROGRAM, f"{browse.url}/tlog", vkey, self.old]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

        try:
            yield audit
        finally:
            browse.stop()


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=70_000)
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        published = Published(Path(folder), entries)
        with published.served() as audit:
            done = audit(published.vkey)
    close_shared()
    sys.stdout.write(f"Entries and tiles that {JUDGE} accepts: {done.stdout.strip() or 'none'}\n{done.stderr}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
