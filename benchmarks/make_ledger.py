"""A ledger of millions of entries, and no files: FOLDER/ledger/ledger.db, as the service would have written it in a year.

    python benchmarks/make_ledger.py FOLDER [--entries 10000000] [--seed 0]      # in the environment of scripts/venv
    scripts/bench replay --folder FOLDER                                         # uses it

About 3.4 entries a study, 1,560 bytes an entry. Positions, versions, causes, hashes and times are right, so that `verify` finds nothing
wrong in the ledger; the archive that it speaks of does not exist.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.large_ledger import make  # noqa: E402

BYTES_AN_ENTRY = 1_560
ROOM = 1.7
"""Room for index and mirror as well, in multiples of the ledger."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same entries")
    options = parser.parse_args()
    path = options.folder / "ledger" / "ledger.db"
    if path.exists():
        sys.exit(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(options.entries * BYTES_AN_ENTRY * ROOM), shutil.disk_usage(path.parent).free
    if free < needed:
        sys.exit(f"{options.entries:,} entries, their index and their mirror need {needed / 1e9:.1f} GB; free are {free / 1e9:.1f} GB")
    began = time.perf_counter()
    studies = make(path, options.entries, options.seed)
    took, size = time.perf_counter() - began, path.stat().st_size
    print(f"{options.entries:,} entries of {studies:,} studies in {took:.0f} s ({options.entries / took:,.0f}/s), "
          f"{size / 1e6:,.0f} MB ({size / options.entries:,.0f} bytes an entry)")  # fmt: skip


if __name__ == "__main__":
    main()
