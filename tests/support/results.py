"""Tables of measured figures in Markdown pages, and the facts about the run that measured them.

A page keeps its prose; the table between two markers is replaced as a whole, so that a page never mixes figures from two runs:

    <!-- NAME: written by COMMAND -->
    ...
    <!-- end of NAME -->
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from storage_ledger.system.sqlite import sqlite

ROOT = Path(__file__).resolve().parents[2]


def write_table(page: Path, name: str, text: str) -> None:
    """Replace what is between the markers of `name`. ValueError where the page has no such markers."""
    old = page.read_text(encoding="utf-8")
    new, found = re.subn(
        rf"(<!-- {re.escape(name)}: written by [^\n]* -->\n).*?(<!-- end of {re.escape(name)} -->)",
        lambda match: f"{match[1]}{text.rstrip()}\n{match[2]}",
        old,
        flags=re.DOTALL,
    )
    if found != 1:
        raise ValueError(f"{page} has no markers for {name}")
    page.write_text(new, encoding="utf-8")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def conditions() -> str:
    """Date, commit, machine and versions, as one line. Call it before the first measurement: the load is that of the minute before."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit()}. "
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, "
        f"Python {platform.python_version()}, SQLite {sqlite.sqlite_version}. "
        f"Load average when it started: {os.getloadavg()[0]:.1f}."
    )


def commit() -> str:
    """The short id of HEAD; says so when tracked files differ from it (pages of results do not count), or when this is no checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ":!*.md", ":!*.svg"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return f"{head} with uncommitted changes" if changed.strip() else head
