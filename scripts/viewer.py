"""Fetches OHIF's package with npm and prepares its files for BROWSE_VIEWER_PATH. Only the standard library: it may run without ours.

What changes: files that are not needed are left out, addresses lead below /ohif/ (which may have the page's prefix before it), inline
scripts go (the page's policy would refuse them), and each file that shrinks gets a compressed copy. Preparing OHIF in another way needs
another VERSION or FORM, and must suit a browser that still has files of the one before: it keeps them for a year.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PREFIX = "/ohif/"
MARKER = "storage-ledger-viewer.json"
FORM = 2
"""Of a prepared folder. A folder of another form is prepared again."""

FETCH_S = 900
LEFT_OUT = re.compile(
    r"ort/|dicom-microscopy-viewer/|customizations/|.*\.map$|_headers$|_redirects$|serve\.json$|"
    r"sw\.js$|google\.js$|oidc-client\.min\.js$|silent-refresh\.html$"
)
"""AI segmentation and whole-slide images (156 MB); what serves logins of other kinds, or loads from other sites."""

COMPRESSED = {".js", ".css", ".html", ".json", ".svg", ".wasm", ".xml", ".webapp", ".ico"}
INLINE = re.compile(rb"<script>[^<]*</script>")
OWN_PATH = b'__webpack_require__.p = "/"'
PLACE = b'__webpack_require__.p = (/^.*\\/ohif\\//.exec(self.location.pathname) || ["/ohif/"])[0]'
"""Where the page's or the worker's own address says that the files are."""


class Release(NamedTuple):
    """A package of the registry. `integrity` is what npm calls so: the digest of its archive."""

    name: str
    version: str
    integrity: str


OHIF = Release(
    "@ohif/app",
    "3.13.2",  # by its version: for a Node older than 24, npm would choose an older one
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
)


class CannotPrepare(Exception):
    """The message tells the user what to do."""


def main() -> int:
    """Run the command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/viewer",
        description=f"Prepare the image viewer OHIF {OHIF.version} in the folder DIR, for BROWSE_VIEWER_PATH: 50 MB are fetched with npm, "
        "and 70 MB are written. Does nothing if DIR is up to date.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder, or one that this command made")
    parser.add_argument(
        "--package",
        metavar="FILE",
        type=Path,
        help=f"use this file, made on another machine by `npm pack {OHIF.name}@{OHIF.version}`; then neither npm nor a network is needed",
    )
    options = parser.parse_args()
    try:
        print(run(OHIF, options.folder, options.package))
    except CannotPrepare as error:
        print(f"scripts/viewer: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"scripts/viewer: {error.filename or options.folder}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def run(release: Release, folder: Path, package: Path | None = None) -> str:
    """Bring `folder` up to date and return what was done. Raises `CannotPrepare` or `OSError`; the folder is then as before."""
    folder = folder.absolute()
    about = {"name": release.name, "version": release.version, "integrity": release.integrity, "licence": "MIT", "form": FORM}
    if folder.exists() and not folder.is_dir():
        raise CannotPrepare(f"{folder} is not a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        found = _marker(folder)
        if found is None:
            raise CannotPrepare(f"{folder} has other files: choose a new or an empty folder.")
        if found == about:
            return f"{folder} is up to date: {release.name} {release.version}."
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".viewer-", dir=folder.parent) as work:
        made = Path(work, "made")
        made.mkdir()
        prepare(package if package is not None else _fetched(release, Path(work)), release, made)
        (made / MARKER).write_text(json.dumps(about, indent=1) + "\n", encoding="ascii")
        for path in (made, *made.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # `browse` may run as another user
        if folder.exists():
            folder.rename(Path(work, "before"))
        made.rename(folder)
    return f"{folder} has {release.name} {release.version} (MIT). Set BROWSE_VIEWER_PATH to it, and restart `storage-ledger browse`."


def prepare(package: Path, release: Release, folder: Path) -> None:
    """Write the package's files into the empty `folder`, after a check of its digest. Raises `CannotPrepare`."""
    algorithm, _, wanted = release.integrity.partition("-")
    with package.open("rb") as file:
        digest = hashlib.new(algorithm)
        while piece := file.read(1 << 20):
            digest.update(piece)
    if base64.b64encode(digest.digest()).decode() != wanted:
        raise CannotPrepare(f"{package.name} is not {release.name} {release.version}: its {algorithm} digest is another one.")
    prefixed = 0
    for name, data in _files(package):
        ours = with_prefix(name, data)
        prefixed += ours != data
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ours)
        if path.suffix in COMPRESSED and len(small := gzip.compress(ours, 9, mtime=0)) < len(ours):
            path.with_name(f"{path.name}.gz").write_bytes(small)
    if not (folder / "index.html").is_file() or not prefixed:
        raise CannotPrepare(f"{package.name} has another form than {OHIF.name} {OHIF.version}: this command cannot prepare it.")
    (folder / "app-config.js").unlink(missing_ok=True)  # `browse` makes its own
    (folder / "app-config.js.gz").unlink(missing_ok=True)


def with_prefix(name: str, data: bytes) -> bytes:
    """Return the file with its addresses below /ohif/ instead of /: relative ones, but for the page, which has many addresses itself."""
    here = b"./" + b"../" * name.count("/")
    kind = PurePosixPath(name).suffix
    if kind == ".js":
        return data.replace(OWN_PATH, PLACE)
    if kind == ".css":
        return data.replace(b"url(/", b"url(" + here)
    if kind == ".html":
        return INLINE.sub(b"", data).replace(b'="/', b'="' + PREFIX.encode())
    if kind in {".json", ".webapp"}:
        return data.replace(b'"/', b'"' + here)
    if kind == ".xml":
        return data.replace(b'="/', b'="' + here)
    return data


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the files that are kept, and of the licence. Links and names that lead elsewhere are left out."""
    try:
        with tarfile.open(package, "r:gz") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                name = "/".join(parts[2:]) if parts[1:2] == ("dist",) else "LICENSE" if parts[1:] == ("LICENSE",) else ""
                if not name or ".." in parts or not member.isfile() or LEFT_OUT.match(name):
                    continue
                file = archive.extractfile(member)
                assert file is not None  # noqa: S101 - isfile
                yield name, file.read()
    except (tarfile.TarError, EOFError) as error:
        raise CannotPrepare(f"{package.name} is not an npm package: {error}.") from error


def _fetched(release: Release, folder: Path) -> Path:
    """Return the package, fetched by npm from the registry that npm is set up for. Raises `CannotPrepare`."""
    npm = shutil.which("npm")
    what = f"{release.name}@{release.version}"
    elsewhere = f"or run `npm pack {what}` on another machine and give the file with --package."
    if npm is None:
        raise CannotPrepare(f"needs npm on PATH (Debian, Ubuntu: apt-get install npm), {elsewhere}")
    try:
        done = subprocess.run(
            [npm, "pack", what, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel", "error"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=FETCH_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotPrepare(f"npm did not fetch {what} within {FETCH_S // 60} minutes: try again, {elsewhere}") from None
    fetched = next(folder.glob("*.tgz"), None)
    if done.returncode != 0 or fetched is None:
        said = done.stderr.decode(errors="replace").strip()
        raise CannotPrepare(f"npm could not fetch {what}: try again with a network, {elsewhere}\n{said}".rstrip())
    return fetched


def _marker(folder: Path) -> object:
    """Return what a prepared folder says of itself; None if it is none."""
    try:
        return json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
