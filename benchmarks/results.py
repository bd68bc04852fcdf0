"""Runs every benchmark and writes its tables into benchmarks/RESULTS.md: scripts/bench --write."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tests.support.results import conditions, table, write_table  # noqa: E402

BENCHMARKS = ("archive", "replay", "browse")


@dataclass(slots=True)
class Table:
    """One table of results; `notes` are sentences below it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def save(file: Path, tables: list[Table]) -> None:
    file.write_text(json.dumps([asdict(each) for each in tables]))


def main() -> int:
    """Replace all results, or none: a benchmark that fails leaves the page as it is. A missed target is a result, not a failure."""
    argparse.ArgumentParser(prog="scripts/bench --write", description=__doc__).parse_args()
    measured = conditions()
    parts = [measured]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start of a command would compile the package again
    with tempfile.TemporaryDirectory() as folder:
        for name in BENCHMARKS:
            print(f"== {name}", flush=True)
            file = Path(folder) / f"{name}.json"
            code = subprocess.run([sys.executable, HERE / f"bench_{name}.py", "--json", file], check=False).returncode
            if not file.exists():
                print(f"bench_{name}.py ended with {code} and without results: benchmarks/RESULTS.md is unchanged", file=sys.stderr)
                return 2
            for each in json.loads(file.read_text()):
                parts += [f"### {each['title'][:1].upper()}{each['title'][1:]}", table(tuple(each["head"]), each["rows"]), *each["notes"]]
    write_table(HERE / "RESULTS.md", "results", "\n\n".join(parts))
    print("benchmarks/RESULTS.md is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
