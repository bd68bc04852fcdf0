"""Holds a DICOMweb server against PS3.18 and against what clients ask, and shows what it passes.

    python -m tests.dicomweb.conformance [--write] [--failed] [--name PART]

An archive of pydicom's files and of some made for searches; `storage-ledger browse` on it, and, if Debian's packages are installed
(orthanc orthanc-dicomweb orthanc-gdcm), Orthanc's DICOMweb plugin with the same files, in the same run. --write puts the table into
docs/reference/dicomweb.md.
"""

# ruff: noqa: T201 - prints a table
from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from storage_ledger.system import logs
from tests.dicomweb import client_checks, pixel_checks, retrieve_checks, search_checks, servers
from tests.dicomweb.checks import Check, File, Group, Server
from tests.support.dicom_archive import Archived, make_dicom_archive
from tests.support.results import table, write_table
from tests.support.warm import close_shared

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "dicomweb.md"

GROUPS: tuple[Group, ...] = (
    search_checks.matching, search_checks.left_open, search_checks.results, search_checks.pages, search_checks.refusals,
    retrieve_checks.instances, retrieve_checks.metadata, retrieve_checks.bulk, pixel_checks.frames, pixel_checks.rendered,
    client_checks.ohif, client_checks.dicomweb_client, client_checks.weasis, client_checks.addresses,
)  # fmt: skip

Failures = Mapping[tuple[str, str], str | None]
"""By group and check: why it failed; None if it passed."""


def files_of(archived: Archived) -> tuple[File, ...]:
    """Return the files of an archive."""
    return tuple(File(*uids, data) for uids, data in archived.sources.items())


def run(server: Server, groups: Iterable[Group]) -> Failures:
    """Run all checks."""
    return {(group.name, check.name): why(check, server) for group in groups for check in group.checks}


def why(check: Check, server: Server) -> str | None:
    """Run one check; return why it failed, or None."""
    try:
        server.ready()
        check.run(server)
    except Exception as error:  # noqa: BLE001 - a server may answer with anything, and then checks fail anyhow
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error) or where.line}".split("\n", 1)[0][:300]
    return None


def rows(groups: Iterable[Group], of_all: Sequence[Failures]) -> list[tuple[str, ...]]:
    """Return a row for each group, and one for all: how many checks each server passes."""
    found = []
    for group in groups:
        keys = [(group.name, check.name) for check in group.checks]
        passed = (sum(failures[key] is None for key in keys) for failures in of_all)
        found.append((group.name, *(f"{count} of {len(keys)}" for count in passed)))
    total = (f"**{sum(each is None for each in failures.values())} of {len(failures)}**" for failures in of_all)
    return [*found, ("**all**", *total)]


def main() -> int:
    """Return 0 if ours passes all checks."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.dicomweb.conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/reference/dicomweb.md")
    parser.add_argument("--failed", action="store_true", help="show which checks fail, and why")
    parser.add_argument("--name", default="", help="only checks whose group or name contains this")
    options = parser.parse_args()
    logs.configure("ERROR")
    groups = [
        Group(group.name, chosen)
        for group in GROUPS
        if (chosen := [check for check in group.checks if options.name.lower() in f"{group.name}: {check.name}".lower()])
    ]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        stack.callback(close_shared)
        folder = Path(temporary)
        archived = make_dicom_archive(folder / "archive")
        files = files_of(archived)
        heads, of_all, skipped = ["storage-ledger"], [], ""
        if servers.program():
            orthanc = servers.Orthanc(folder / "orthanc")
            stack.callback(orthanc.close)
            files = orthanc.store(files)
            heads.append("Orthanc")
            of_all.append(run(stack.enter_context(servers.served(orthanc, files)), groups))
        else:
            skipped = f"SKIPPED: Orthanc is not installed (apt-get install {servers.PACKAGES})"
        of_all.insert(0, run(stack.enter_context(servers.ours(archived.folder, files, folder / "log")), groups))
    shown = rows(groups, of_all)
    print(table(("checks", *heads), shown))
    if options.failed:
        for name, failures in zip(heads, of_all, strict=True):
            for (group, check), reason in failures.items():
                if reason is not None:
                    print(f"{name}: {group}: {check}: {reason}")
    print(skipped, end="\n" if skipped else "")
    if options.write and not skipped and not options.name:
        run_on = f"{datetime.now(UTC):%Y-%m-%d}; {servers.versions()}."
        held = f"{len(files)} files: those of pydicom's that both accept, and some made for searches."
        write_table(PAGE, "conformance", f"{run_on} {held}\n\n{table(('checks', *heads), shown)}")
    return 0 if all(each is None for each in of_all[0].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
