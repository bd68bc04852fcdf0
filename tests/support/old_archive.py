"""Make an archive as the old service left it, with good and broken files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.dicom import make_file

BROKEN = {
    "README.txt": "not-a-folder",
    "link-to-a-study": "is-link",
    "..and-up": "unsafe-study-id",
    "-dash": "unsafe-study-id",
    "no-metadata/metadata.json": "metadata-missing",
    "empty-file/empty-file.dcm": "empty-file",
    "empty-folder": "no-file",
    "only-metadata": "no-file",
    "linked/a.dcm": "is-link",
    "linked-metadata/metadata.json": "metadata-not-regular",
    "fifo/a.dcm": "is-special",
    "huge-metadata/metadata.json": "metadata-too-large",
    "several/.hidden.dcm": "is-hidden",
    "several/Thumbs.db": "not-dicom",
    "several/not-utf8-\\xff.dcm": "unsafe-name",
    "several/sub": "is-folder",
    f"several/{'n' * 201}": "name-too-long",
}
"""Paths made by `add_broken` that must not be adopted, and why."""

REMARKS = {
    "not-json/metadata.json": "metadata-not-understood",
    "not-utf8/metadata.json": "metadata-not-understood",
    "no-bytes/metadata.json": "metadata-not-understood",
    "nested/metadata.json": "metadata-not-understood",
    "wrong-groups/metadata.json": "metadata-not-understood",
    "another-study/metadata.json": "study-id-differs",
}
"""Paths made by `add_broken` that are adopted with a remark."""


def old_metadata(study_id: str, **more: Any) -> dict[str, Any]:
    """Return the metadata.json that the old service wrote."""
    return {
        "study_id": study_id,
        "processing_time": "2021-03-04T05:06:07.000008",
        "validation_details": {"is_valid": True},
        "patient_info": {"patient_id": f"P-{study_id}", "patient_name": "DOE^JANE"},
        "study_info": {"study_description": "THORAX", "study_id": "dicom's own"},
        "modality_info": {"modality": "CT"},
        "exposure_info": {},
        "location_info": {},
        **more,
    }


def add_study(root: Path, study_id: str, *names: str, metadata: Mapping[str, Any] | bytes | None = None) -> Path:
    """Add a study with these files, DICOM where the name says so; by default one file, named as the gateway does."""
    folder = root / study_id
    folder.mkdir(parents=True)
    for name in names or (f"{study_id}.dcm",):
        make_file(folder / name, patient_id=f"P-{study_id}")
        (folder / name).chmod(0o644)
    data = metadata if isinstance(metadata, bytes) else json.dumps(metadata or old_metadata(study_id), indent=4).encode()
    (folder / "metadata.json").write_bytes(data)
    return folder


def add_broken(root: Path) -> None:
    """Add everything in `BROKEN` and `REMARKS`, and one study with two good files among the broken ones."""
    (root / "README.txt").write_text("hello")
    (root / "lost+found").mkdir()
    (root / "link-to-a-study").symlink_to("several")
    for name in ("..and-up", "-dash", "empty-folder", "only-metadata", "fifo"):
        (root / name).mkdir()
    (root / "-dash" / "a.dcm").write_bytes(b"a")
    (root / "only-metadata" / "metadata.json").write_text("{}")
    (add_study(root, "no-metadata") / "metadata.json").unlink()
    (add_study(root, "empty-file") / "empty-file.dcm").write_bytes(b"")
    folder = add_study(root, "linked")
    (folder / "linked.dcm").rename(root.parent / "elsewhere.dcm")
    (folder / "a.dcm").symlink_to(root.parent / "elsewhere.dcm")
    folder = add_study(root, "linked-metadata")
    (folder / "metadata.json").unlink()
    (folder / "metadata.json").symlink_to("linked-metadata.dcm")
    os.mkfifo(root / "fifo" / "a.dcm")
    add_study(root, "huge-metadata", metadata=b"{" + b" " * (1 << 20) + b"}")
    folder = add_study(root, "several", "one.dcm", "two.dcm")
    (folder / ".hidden.dcm").write_bytes(b"h")
    (folder / "Thumbs.db").write_bytes(b"t")
    (folder / os.fsdecode(b"not-utf8-\xff.dcm")).write_bytes(b"u")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.dcm").write_bytes(b"s")
    (folder / ("n" * 201)).write_bytes(b"n")
    add_study(root, "not-json", metadata=b"{ not json")
    add_study(root, "not-utf8", metadata=b'{"study_id": "\xff"}')
    add_study(root, "no-bytes", metadata=b"")
    add_study(root, "nested", metadata=b"[" * 100_000)
    add_study(root, "wrong-groups", metadata={"study_id": "wrong-groups", "patient_info": "DOE"})
    add_study(root, "another-study", metadata=old_metadata("somebody-else"))
    add_study(root, "odd-numbers", metadata=b'{"study_id": "odd-numbers", "n": 1e400, "m": NaN, "s": "\\ud800", "s": "\\ud801"}')


def picture(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return everything below `root` except the mirror: type, bytes, mode, times and inode."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = os.fsdecode(os.path.relpath(os.fsencode(path), os.fsencode(root)))
        if name.split("/")[0] == ".ledger":
            continue
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if plain else os.readlink(path) if path.is_symlink() else ""
        found[name] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest)
    return found
