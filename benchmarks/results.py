"""Writes tables of results. As a program, it runs the benchmarks for benchmarks/RESULTS.md: scripts/bench --write."""

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
ROOT = HERE.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))
from tests.support.results import conditions, table, write_table  # noqa: E402

BENCHMARKS = {
    "archive": ("--workers=0,1,2", "--files=1,20", "--rates=10,100,300", f"--plot={DOCS / 'images' / 'throughput.svg'}"),
    "replay": (),
    "browse": (),
}
"""Their names and arguments."""


@dataclass(slots=True)
class Table:
    """One table of results; `notes` are sentences below it. `place`: its markers in docs/performance.md, if it belongs there."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    place: str = ""


def markdown(tables: list[Table]) -> str:
    """The tables, each with its heading, if it has one, and its notes."""
    parts = []
    for each in tables:
        heading = f"### {each.title[:1].upper()}{each.title[1:]}\n" if each.title else ""
        parts += [heading + table(tuple(each.head), each.rows), *each.notes]
    return "\n\n".join(parts)


def write_performance(measured: str, tables: list[Table]) -> None:
    """Put each table into its place in docs/performance.md. `measured`: the `conditions` under which they were measured."""
    for each in tables:
        write_table(DOCS / "performance.md", each.place, f"{measured}\n\n{markdown([each])}")
        print(f"docs/performance.md: {each.place} is written")


def save(file: Path, tables: list[Table]) -> None:
    file.write_text(json.dumps([asdict(each) for each in tables]))


def main() -> int:
    """Replace all results, or none: a benchmark that fails leaves the page as it is. A missed target is a result, not a failure."""
    argparse.ArgumentParser(prog="scripts/bench --write", description=__doc__).parse_args()
    measured = conditions()
    tables: list[Table] = []
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start of a command would compile the package again
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in BENCHMARKS.items():
            print(f"== {name}", flush=True)
            file = Path(folder) / f"{name}.json"
            code = subprocess.run([sys.executable, HERE / f"bench_{name}.py", *arguments, "--json", file], check=False).returncode
            if not file.exists():
                print(f"bench_{name}.py ended with {code} and without results: benchmarks/RESULTS.md is unchanged", file=sys.stderr)
                return 2
            tables += [Table(**each) for each in json.loads(file.read_text())]
    write_table(HERE / "RESULTS.md", "results", f"{measured}\n\n{markdown([each for each in tables if not each.place])}")
    write_performance(measured, [each for each in tables if each.place])
    print("benchmarks/RESULTS.md is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
