"""scripts/viewer on a small package of npm's form: what it leaves out, prefixes and compresses, and what it says when it cannot."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import viewer

SCRIPT = Path(viewer.__file__).with_name("viewer")
CONTENT = {
    "dist/index.html": '<!doctype html><script>window.PUBLIC_URL="/"</script><script src="/app-config.js"></script>'
    '<link href="/app.css" rel="stylesheet"><a href="https://ohif.org/">x</a>',
    "dist/app.bundle.0f6159c501addfe9.js": 'const other = "/";\n__webpack_require__.p = "/";\n' + "// long\n" * 500,
    "dist/app.css": "@font-face { src: url(/a34f9d1faa5f3315.woff2) } b { background: url(data:,) }",
    "dist/manifest.json": '{"src": "/assets/logo.png", "start": "./index.html"}',
    "dist/app-config.js": "window.config = {};" * 100,
    "dist/assets/logo.png": "PNG" * 100,
    "dist/app.bundle.0f6159c501addfe9.js.map": "{}",
    "dist/ort/ort.wasm": "big",
    "dist/dicom-microscopy-viewer/main.js": "big",
    "dist/sw.js": "importScripts('https://elsewhere.example/')",
    "dist/../../outside.js": "outside",
    "src/index.js": "source",
    "LICENSE": "MIT",
    "README.md": "read me",
}


def pack(path: Path, content: dict[str, str]) -> viewer.Release:
    """Write a package and return its release."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in content.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("package/dist/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return viewer.Release("@ohif/app", "1.0.0", f"sha512-{digest}")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tmp_path / "package.tgz"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_what_is_not_needed_is_left_out_and_all_addresses_are_below_ohif(tmp_path: Path, package: Path):
    made = tmp_path / "viewer"
    said = viewer.run(pack(package, CONTENT), made, package)
    app = "app.bundle.0f6159c501addfe9.js"
    assert names(made) == {"index.html", "index.html.gz", app, f"{app}.gz", "app.css", "manifest.json", "assets/logo.png", "LICENSE",
                           viewer.MARKER}  # fmt: skip
    page = (made / "index.html").read_text()
    assert page == (
        '<!doctype html><script src="/ohif/app-config.js"></script><link href="/ohif/app.css" rel="stylesheet"><a href="https://ohif.org/">x</a>'
    )
    assert (made / app).read_text().startswith(f'const other = "/";\n{viewer.PLACE.decode()};\n')
    assert (made / "app.css").read_text() == "@font-face { src: url(./a34f9d1faa5f3315.woff2) } b { background: url(data:,) }"
    assert json.loads((made / "manifest.json").read_text()) == {"src": "./assets/logo.png", "start": "./index.html"}
    for name in ("index.html", app):
        assert gzip.decompress((made / f"{name}.gz").read_bytes()) == (made / name).read_bytes()
    assert (made / "LICENSE").read_text() == "MIT"
    assert "BROWSE_VIEWER_PATH" in said
    assert not (tmp_path / "outside.js").exists()


def test_the_folder_says_what_it_is_and_any_user_can_read_it(tmp_path: Path, package: Path):
    release = pack(package, CONTENT)
    before = os.umask(0o077)
    try:
        viewer.run(release, tmp_path / "viewer", package)
    finally:
        os.umask(before)
    about = json.loads((tmp_path / "viewer" / viewer.MARKER).read_text())
    assert (about["name"], about["version"], about["licence"], about["integrity"]) == ("@ohif/app", "1.0.0", "MIT", release.integrity)
    for path in [tmp_path / "viewer", *(tmp_path / "viewer").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_folder_that_is_up_to_date_stays_and_another_release_replaces_it(tmp_path: Path, package: Path):
    made = tmp_path / "viewer"
    made.mkdir()  # an empty folder is taken
    release = pack(package, CONTENT)
    viewer.run(release, made, package)
    written = (made / "index.html").stat()
    package.unlink()
    assert "up to date" in viewer.run(release, made, package)
    assert (made / "index.html").stat() == written
    newer = pack(package, {**CONTENT, "dist/new.js": "1"})._replace(version="1.0.1")
    viewer.run(newer, made, package)
    assert "new.js" in names(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package.tgz", "viewer"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (CONTENT | {"dist/index.html": "another"}, "digest is another one"),
        ({"dist/index.html": "<p>"}, "has another form"),
        ({"dist/app.js": '__webpack_require__.p = "/"'}, "has another form"),
    ],
)
def test_a_package_that_is_not_the_release_leaves_the_folder_as_it_was(tmp_path: Path, package: Path, content: dict[str, str], why: str):
    made = tmp_path / "viewer"
    first = pack(package, CONTENT)
    viewer.run(first, made, package)
    before = names(made)
    wanted = pack(package, content)
    with pytest.raises(viewer.CannotPrepare, match=why):
        viewer.run(first._replace(version="2") if "digest" in why else wanted, made, package)
    assert names(made) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package.tgz", "viewer"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, package: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("x")
    with pytest.raises(viewer.CannotPrepare, match="has other files"):
        viewer.run(pack(package, CONTENT), tmp_path / "home", package)
    with pytest.raises(viewer.CannotPrepare, match="is not a folder"):
        viewer.run(pack(package, CONTENT), tmp_path / "home" / "precious", package)
    assert names(tmp_path / "home") == {"precious"}


def command(folder: Path, *arguments: str, npm: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run scripts/viewer with nothing but python3 on PATH, and this program as `npm`."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("bash", "dirname", "python3", "cat", "cp"):
        found = next(path for each in os.get_exec_path() if (path := Path(each, name)).exists())
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(found.resolve())
    if npm is not None:
        (programs / "npm").write_text(f"#!{programs}/bash\n{npm}\n")
        (programs / "npm").chmod(0o755)
    return subprocess.run(
        [programs / "bash", SCRIPT, *arguments], env={"PATH": str(programs)}, capture_output=True, text=True, check=False, timeout=60
    )


def test_without_npm_or_a_network_the_command_says_what_to_do(tmp_path: Path):
    made = tmp_path / "viewer"
    no_npm = command(tmp_path, str(made))
    assert (no_npm.returncode, no_npm.stdout) == (2, "")
    assert "needs npm on PATH" in no_npm.stderr
    assert "npm pack @ohif/app@3.13.2" in no_npm.stderr
    no_network = command(tmp_path, str(made), npm="echo 'npm error network ENOTFOUND' >&2; exit 1")
    assert no_network.returncode == 2
    assert "npm could not fetch @ohif/app@3.13.2" in no_network.stderr
    assert "ENOTFOUND" in no_network.stderr
    assert "Traceback" not in no_npm.stderr + no_network.stderr
    assert not made.exists()


def test_what_npm_fetched_is_checked(tmp_path: Path, package: Path):
    pack(package, CONTENT)
    asked = tmp_path / "asked"
    npm = f'echo "$@" >{asked}; while [ "$1" != --pack-destination ]; do shift; done; cp {package} "$2/ohif-app-3.13.2.tgz"'
    done = command(tmp_path, str(tmp_path / "viewer"), npm=npm)
    assert done.returncode == 2
    assert "is not @ohif/app 3.13.2: its sha512 digest is another one" in done.stderr
    assert asked.read_text().startswith("pack @ohif/app@3.13.2 ")
    assert not (tmp_path / "viewer").exists()


@pytest.mark.parametrize(("file", "why"), [("nothing.tgz", "No such file"), ("text.tgz", "digest is another one")])
def test_a_wrong_package_file_is_named(tmp_path: Path, file: str, why: str):
    (tmp_path / "text.tgz").write_text("text")
    done = command(tmp_path, str(tmp_path / "viewer"), "--package", str(tmp_path / file))
    assert done.returncode == 2
    assert file in done.stderr
    assert why in done.stderr
    assert not (tmp_path / "viewer").exists()


def test_a_file_that_is_no_archive_is_named(tmp_path: Path, package: Path):
    package.write_text("text")
    digest = base64.b64encode(hashlib.sha512(b"text").digest()).decode()
    with pytest.raises(viewer.CannotPrepare, match="not an npm package"):
        viewer.run(viewer.Release("x", "1", f"sha512-{digest}"), tmp_path / "viewer", package)
